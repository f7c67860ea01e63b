/** What its user does to a conversation of the list: names it, deletes it, takes it away as a file, and brings one. */
import { patch, postText, remove } from "./api.js";
import { restore } from "./connection.js";
import { erased, visit } from "./conversation.js";
import { visible } from "./format.js";
import { user } from "./principal.js";
import { another, open as enter, show, shown } from "./session.js";
import { aside, change, current, look, others, path, sessions, tabs } from "./sessions.js";
import { getFile } from "./transfer.js";

/** Do something to the list and show it at once; it is as before if the server does not do it. */
async function changing(list, request) {
  const before = sessions.peek();
  change(list);
  try {
    await request;
    tabs.postMessage("look");
  } catch (error) {
    change(before);
    throw error;
  } finally {
    await look();
  }
}

/** @param {string} id @param {string} name */
export function rename(id, name) {
  const renamed = (one) => (one?.session_id === id ? { ...one, name } : one);
  aside.value = renamed(aside.value);
  return changing(sessions.value.map(renamed), patch(path(id), { user_id: user.value.id, name }));
}

/** Delete a conversation; if it is on the page, another one begins. @param {import("./sessions.js").Session} session */
export async function erase({ session_id: id, connected }) {
  const isHere = id === current.value;
  const { gone } = visit();
  erased.add(id);
  await changing(others(id), remove(path(id))).catch((error) => {
    erased.delete(id);
    throw error;
  });
  if (connected) await restore(); // an empty one has taken its place
  if (!isHere || gone.aborted) return; // the user may have gone elsewhere meanwhile
  if (!connected) await another();
  else await (shown.value ? show(null) : enter());
}

/** Make a new conversation of an exported one, and show it. @param {File} file */
export async function bring(file) {
  const session = await postText("llmchat/sessions/import", await file.text());
  tabs.postMessage("look");
  await Promise.all([look(), show(session.session_id)]);
  return session;
}

/** Save a conversation as a file. @param {string} id @param {"json" | "markdown"} format */
export async function carryAway(id, format) {
  const { file, name } = await getFile(path(id, `/export?format=${format}`));
  const address = URL.createObjectURL(file);
  Object.assign(document.createElement("a"), { href: address, download: visible(name) }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser reads it meanwhile
}
