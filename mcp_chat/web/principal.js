/** Who is asking, and how they prove it. */
import { get, onUnauthorized, post } from "./api.js";
import { report } from "./problem.js";
import { forget, recall, remember } from "./storage.js";
import { strings } from "./strings.js";
import { effect, signal } from "./vendor/signals.js";

/** undefined until the server said whether there is a user. @type {{value: {id: string} | null | undefined}} */
export const user = signal(undefined);

/** @type {{value: "demo" | "jwt" | "contextforge" | "proxy" | "custom"}} */
export const mode = signal("demo");

/** Whether one signs in somewhere else: at the gateway, or at the proxy in front. */
export const elsewhere = () => mode.value !== "demo" && mode.value !== "jwt";

/** A cookie is all tabs' of this browser: what one of them does to it, the others hear. */
const tabs = new BroadcastChannel("mcp-chat-user");
tabs.onmessage = ({ data }) => user.value !== undefined && !recall("token") && lookAgain(data).catch(() => {});

onUnauthorized(() => {
  remember("token", "");
  if (user.value) report(strings.signIn.expired);
  user.value = null;
});

/** @param {string} id of a user who has signed out on purpose, if one has */
async function lookAgain(id) {
  await identify();
  if (id && user.value?.id !== id) leaveNothingOf(id);
}

/** The ids of users who have signed out on purpose, and have not come back. @type {Set<string>} */
const gone = new Set();
effect(() => void (user.value && gone.delete(user.value.id)));

/** @param {string} id */
function leaveNothingOf(id) {
  gone.add(id);
  forget(isOf(id));
}

/** Whether a key is of a user who wants nothing to be left: what they had sent may come back after they have gone. @param {string} key */
export const isOfNobody = (key) => [...gone].some((id) => isOf(id)(key));

/** What is kept of a user's doings in this tab: drafts, what goes with them, and why an answer failed. @param {string} id */
const isOf = (id) => (key) => ["draft", "enclosed", "failure"].some((kind) => `${key}:`.startsWith(`${kind}:${id}:`));

let asked = 0;

/** Ask the server who we are; of several answers the one that was asked for last counts. */
export async function identify() {
  const mine = ++asked;
  const answer = await get("auth");
  if (mine !== asked) return;
  mode.value = answer.mode;
  if (user.value === undefined || user.value?.id !== answer.user?.id) user.value = answer.user;
}

/** @param {string} secret a name in demo mode, an access token otherwise */
export const signIn = (secret) => (mode.value === "demo" ? signInAs(secret) : signInWith(secret));

/** In a frame of another site a browser may keep no cookie. @param {string} name */
async function signInAs(name) {
  const signedIn = await post("auth/demo", { user: name });
  if (window.parent !== window && !(await get("auth")).user) throw new Error(strings.signIn.noCookie);
  asked += 1; // an answer from before does not count
  user.value = signedIn.user;
  tabs.postMessage("");
}

/** @param {string} token */
async function signInWith(token) {
  remember("token", token);
  await identify().catch((error) => {
    throw error.status === 401 ? new Error(strings.signIn.refused) : error;
  });
  if (user.value) return;
  remember("token", "");
  throw new Error(strings.signIn.refused);
}

/** Leave nothing of the user behind; a sign-in that expires keeps what was not sent. */
export async function signOut() {
  const { id } = user.value;
  if (mode.value === "demo" || !recall("token")) await post("auth/logout", {}).then(() => tabs.postMessage(id));
  remember("token", "");
  asked += 1;
  user.value = null;
  leaveNothingOf(id);
}
