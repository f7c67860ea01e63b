/**
 * What this browser tab remembers over a reload: the access token and the unsent draft. Gone when the tab closes.
 * Wishes of how the page looks stay in the browser.
 */

const PREFIX = "mcp-chat:";

/** Where a browser forbids storage, as some do in frames of other sites, it is remembered until the page is left. */
const spare = new Map();

/** @param {string} key @returns {string} */
export function recall(key) {
  try {
    return sessionStorage.getItem(PREFIX + key) ?? "";
  } catch {
    return spare.get(key) ?? "";
  }
}

/** @param {string} key @param {string} value an empty value is forgotten */
export function remember(key, value) {
  try {
    if (value) sessionStorage.setItem(PREFIX + key, value);
    else sessionStorage.removeItem(PREFIX + key);
  } catch {
    spare.set(key, value);
  }
}

/** Forget all that was remembered under some keys. @param {(key: string) => boolean} of */
export function forget(of) {
  for (const key of keysOf(of)) remember(key, "");
}

/** Remember under other keys what was remembered under those of one id. @param {string} before @param {string} now */
export function carry(before, now) {
  const of = (key) => key.endsWith(`:${before}`);
  for (const key of keysOf(of)) {
    remember(`${key.slice(0, -before.length)}${now}`, recall(key));
    remember(key, "");
  }
}

/** @param {(key: string) => boolean} of @returns {string[]} */
function keysOf(of) {
  try {
    return Object.keys(sessionStorage).flatMap((name) => (name.startsWith(PREFIX) ? [name.slice(PREFIX.length)] : [])).filter(of);
  } catch {
    return [...spare.keys()].filter(of);
  }
}

/** @param {string} wish @returns {string} */
export function preferred(wish) {
  try {
    return localStorage.getItem(PREFIX + wish) ?? "";
  } catch {
    return ""; // a browser may forbid storage: the chat works without
  }
}

/** @param {string} wish @param {string} value */
export function prefer(wish, value) {
  try {
    localStorage.setItem(PREFIX + wish, value);
  } catch {
    /* see preferred */
  }
}
