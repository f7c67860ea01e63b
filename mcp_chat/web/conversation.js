/** Which conversation is on the page, for how long, and the text that is not sent yet in it. */
import { connection } from "./connection.js";
import { user } from "./principal.js";
import { carry, recall, remember } from "./storage.js";
import { batch, signal } from "./vendor/signals.js";

/** The conversation's id; null for the default one. @type {{value: string | null}} */
export const shown = signal(null);

/** The id of the conversation on the page that the server does not know yet; without a database it hears of it with the first message. */
export const unbegun = signal(null);

/** Whether it is not there yet: what is sent waits for it. */
export const opening = signal(false);

/** The text that is not sent yet. */
export const draft = signal("");

/**
 * The time in which one conversation is on the page.
 * @typedef {{gone: AbortSignal, opened: Promise<void>}} Visit `gone`: nothing of this visit may touch the page any more;
 *   `opened`: settled once the recorded conversation is shown
 */
let ending = new AbortController();

/** @type {Visit} */
let current = { gone: ending.signal, opened: Promise.resolve() };

/** @returns {Visit} */
export const visit = () => current;

/** Another conversation is looked at, or none. @param {string | null} id @returns {Visit} */
export function moveTo(id) {
  ending.abort();
  ending = new AbortController();
  current = { gone: ending.signal, opened: Promise.resolve() };
  batch(() => {
    shown.value = id;
    opening.value = false;
  });
  return current;
}

/** The last one that was named, by what stood for its name before. */
let former = "";

/** The server knows the conversation on the page, which was {@link unbegun}. @param {string} id */
export function name(id) {
  former = shown.value;
  carry(former, id);
  batch(() => ([shown.value, unbegun.value] = [id, null]));
}

/** Whether a key is of before the last name was given. @param {string} key */
export const isOfBefore = (key) => Boolean(former) && key.endsWith(`:${former}`);

/** The conversations that the user deletes here: that they are missing then is no news. @type {Set<string>} */
export const erased = new Set();

/** The id under which the server knows the conversation, if it has one already. */
export const sessionId = () => shown.value ?? connection.value?.sessionId;

/** The conversation as part of a query. */
export const inSession = () => (sessionId() ? `?session_id=${encodeURIComponent(sessionId())}` : "");

/** @param {object} more @returns {object} the body of a request about the conversation */
export const request = (more) => ({ user_id: user.value.id, session_id: sessionId(), ...more });

/** @param {string} text @param {string} [key] of another conversation than the one that is shown */
export function setDraft(text, key = draftKey()) {
  if (key === draftKey()) draft.value = text;
  remember(key, text);
}

/** Show what was written here and not sent. */
export const loadDraft = () => (draft.value = recall(draftKey()));

/** The default conversation's has no id: it outlives a connection. */
export const draftKey = () => `draft:${user.value.id}${isDefault() ? "" : `:${shown.value}`}`;

const isDefault = () => !shown.value || shown.value === connection.value?.sessionId;
