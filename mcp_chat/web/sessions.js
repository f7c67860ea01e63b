/** The user's conversations, the one used last first: read page by page, and kept in step with what happens. */
import { get } from "./api.js";
import { connection } from "./connection.js";
import { visible } from "./format.js";
import { lastQuestion } from "./messages.js";
import { user } from "./principal.js";
import { shown, working } from "./session.js";
import { strings } from "./strings.js";
import { batch, computed, effect, signal, untracked } from "./vendor/signals.js";

const LOOK_MS = 1500;

/** @typedef {{session_id: string, name: string, updated_at: string, running: string | null, connected: boolean}} Session */

/** undefined until they were read, null where there is no database to read them from. @type {{value: Session[] | null | undefined}} */
export const sessions = signal(undefined);

/** Where the next page begins; null at the end. @type {{value: string | null}} */
export const older = signal(null);

/** Why they could not be read. */
export const fault = signal("");

/** The id of the conversation on the page. */
export const current = computed(() => shown.value ?? connection.value?.sessionId ?? "");

/** Whether anything was said in it that is recorded: only then it is listed. */
const begun = computed(() => Boolean(lastQuestion()));

/** What is known of it, if it is not on the pages that were read. @type {{value: Session | null}} */
export const aside = signal(null);

/** The conversation on the page, once there is something to keep of it. @type {{value: Session | undefined}} */
export const open = computed(() => [...(sessions.value ?? []), aside.value].find((one) => one?.session_id === current.value));

/** The conversation whose user is asked whether to delete it. @type {{value: Session | null}} */
export const doomed = signal(null);

/** Ask whether to delete it; once more, if that was asked already. @param {Session} session */
export const doom = (session) => (doomed.value = { ...session });

/** Raised by what the user does: an answer from before does not count any more. */
let edition = 0;

/** Tells the user's other tabs in this browser to look again. */
export const tabs = new BroadcastChannel("mcp-chat-sessions");

/** @param {Session} session */
export const nameOf = ({ name }) => visible(name) || strings.sidebar.unnamed;

/** @param {string} id @param {string} [more] */
export const path = (id, more = "") => `llmchat/sessions/${encodeURIComponent(id)}${more}`;

/** Read the newest page again; what was read of older ones stays. */
export async function look() {
  const asked = ++edition;
  try {
    const page = await get("llmchat/sessions");
    if (asked === edition) batch(() => take(page));
    if (asked === edition) await lookAside();
    fault.value = "";
  } catch (error) {
    if (asked !== edition) return;
    if (error.status === 501) sessions.value = null;
    else if (error.status !== 401) fault.value = error.message;
  }
}

/** @param {{sessions: Session[], before: string | null}} page */
function take({ sessions: page, before }) {
  const [ids, last] = [new Set(page.map((one) => one.session_id)), page.at(-1)];
  const known = sessions.value ?? [];
  const joins = before && known.some((one) => ids.has(one.session_id)); // else there may be a gap between the two
  const rest = joins ? known.filter((one) => !ids.has(one.session_id) && moment(one) <= moment(last)) : [];
  sessions.value = [...page, ...rest];
  if (!rest.length) older.value = before;
}

const moment = ({ updated_at: time }) => Date.parse(time);

/** A conversation of long ago is on no page that was read: look it up when it is shown. */
async function lookAside() {
  const id = current.value;
  if (!older.value || !begun.value || sessions.value.some((one) => one.session_id === id)) return;
  const found = await get(path(id)).catch(() => null);
  if (id === current.value) aside.value = found;
}

/** Read the next page. */
export async function lookFurther() {
  if (!older.value) return;
  const [asked, cursor] = [edition, older.value];
  const page = await get(`llmchat/sessions?before=${encodeURIComponent(cursor)}`);
  if (cursor !== older.value) return;
  const known = new Set(sessions.value.map((one) => one.session_id));
  batch(() => {
    sessions.value = [...sessions.value, ...page.sessions.filter((one) => !known.has(one.session_id))];
    older.value = page.before;
  });
  if (asked !== edition) await look(); // some may have moved meanwhile
}

/** Look again when something may have changed, and from time to time while a turn runs. @returns {() => void} to stop */
export function keepInStep() {
  let due = false;
  const again = () => {
    if (due || document.hidden || sessions.peek() === null) return;
    due = true;
    queueMicrotask(() => {
      due = false; // several signals may change at once
      if (user.value) look();
    });
  };
  const busy = () => working.value || sessions.value?.some((one) => one.running);
  const timer = setInterval(() => busy() && again(), LOOK_MS);
  const stop = [
    effect(() => void (current.value, begun.value, untracked(again))),
    effect(() => void (working.value && untracked(moveUp), untracked(again), tabs.postMessage("look"))),
    listen(tabs, "message", again),
    listen(window, "focus", again),
    listen(document, "visibilitychange", again),
    () => clearInterval(timer),
  ];
  return () => {
    for (const each of stop) each();
    edition += 1;
    batch(() => ([sessions.value, older.value, aside.value, fault.value] = [undefined, null, null, ""]));
  };
}

/** @param {EventTarget} target @returns {() => void} to listen no longer */
function listen(target, name, handler) {
  target.addEventListener(name, handler);
  return () => target.removeEventListener(name, handler);
}

/** What is written to is at the top, before the server says so. */
function moveUp() {
  const used = open.peek();
  if (!used || !sessions.peek()) return;
  change([{ ...used, running: used.running ?? "here", updated_at: new Date().toISOString() }, ...others(used.session_id)]);
}

/** @param {string} id */
export const others = (id) => (sessions.peek() ?? []).filter((one) => one.session_id !== id);

/** @param {Session[]} list */
export function change(list) {
  edition += 1;
  sessions.value = list;
}
