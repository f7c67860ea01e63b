/** Who is asking, and how they prove it. */
import { get, onUnauthorized, post } from "./api.js";
import { report } from "./problem.js";
import { recall, remember } from "./storage.js";
import { strings } from "./strings.js";
import { signal } from "./vendor/signals.js";

/** undefined until the server said whether there is a user. @type {{value: {id: string} | null | undefined}} */
export const user = signal(undefined);

/** @type {{value: "demo" | "jwt" | "contextforge" | "proxy" | "custom"}} */
export const mode = signal("demo");

/** Whether one signs in somewhere else: at the gateway, or at the proxy in front. */
export const elsewhere = () => mode.value !== "demo" && mode.value !== "jwt";

onUnauthorized(() => {
  remember("token", "");
  if (user.value) report(strings.signIn.expired);
  user.value = null;
});

/** Ask the server who we are. */
export async function identify() {
  const answer = await get("auth");
  mode.value = answer.mode;
  user.value = answer.user;
}

/** @param {string} secret a name in demo mode, an access token otherwise */
export const signIn = (secret) => (mode.value === "demo" ? signInAs(secret) : signInWith(secret));

/** @param {string} name */
async function signInAs(name) {
  user.value = (await post("auth/demo", { user: name })).user;
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

export async function signOut() {
  if (mode.value === "demo" || !recall("token")) await post("auth/logout", {});
  remember("token", "");
  user.value = null;
}
