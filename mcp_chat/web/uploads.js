/** Files for the next message. */
import { strings } from "./strings.js";
import { batch, signal } from "./vendor/signals.js";

/**
 * @typedef {{key: string, name: string, type: string, size: number, state: "sending" | "ready" | "failed",
 *   part: number, id?: string, error?: string}} Attached
 * @type {{value: Attached[]}}
 */
export const files = signal([]);

/** The types that are taken as they are. */
export const TAKEN = ["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "text/plain", "text/markdown", "text/csv", "application/json"];

/** What the file picker offers. */
export const accepted = [...TAKEN, "text/*"].join(",");

let count = 0;

/** What stops those that are on their way. @type {Map<string, AbortController>} */
export const stops = new Map();

/** Each is on its way as soon as it is chosen. @param {Iterable<File>} list */
export async function take(list) {
  const chosen = [...list].map((file) => ({ file, key: add(file) })); // the browser may empty its list meanwhile
  for (const { key } of chosen) stops.set(key, new AbortController());
  await import("./uploading.js").then(
    ({ upload }) => chosen.forEach(({ file, key }) => upload(file, key)),
    (error) => {
      console.error(error); // it may not be the network
      for (const { key } of chosen) change(key, { state: "failed", error: strings.errors.unreachable });
    },
  );
}

/** @returns {string} its key */
function add({ name, size, type }, more) {
  const key = `file-${++count}`;
  files.value = [...files.value, { key, name, type, size, state: "sending", part: 0, ...more }];
  return key;
}

/** @param {string} key @param {Partial<Attached>} changes */
export const change = (key, changes) => (files.value = files.value.map((each) => (each.key === key ? { ...each, ...changes } : each)));

/** It does not go with the message any more; the chat deletes what no message has. @param {string} key */
export function drop(key) {
  stops.get(key)?.abort();
  files.value = files.value.filter((each) => each.key !== key);
}

/** Show other ones: of a draft, or none. @param {{id: string, name: string, type: string, size: number}[]} ready */
export function put(ready) {
  for (const stop of stops.values()) stop.abort();
  batch(() => {
    files.value = [];
    for (const one of ready) add(one, { ...one, state: "ready", part: 1 });
  });
}
