/** Which model answers in the conversation on the page. */
import { get } from "./api.js";
import { own } from "./connection.js";
import { sessionId, unbegun } from "./conversation.js";
import { user } from "./principal.js";
import { signal } from "./vendor/signals.js";

/** Whether conversations are kept, and so can have a model of their own; not known before the first look. */
export const kept = signal(true);

/** Look which model the conversation has chosen for itself. */
export async function loadModel() {
  const id = sessionId();
  own.value = null;
  if (!id || id === unbegun.value || !kept.value) return;
  const session = await get(`${path(id)}?user_id=${encodeURIComponent(user.value.id)}`).catch(missing);
  if (session && id === sessionId()) own.value = session.model;
}

/** Without a database there is nothing to look at; a conversation that is not begun has chosen nothing. */
function missing(error) {
  if (error.status === 501) kept.value = false;
  if (![404, 501].includes(error.status)) throw error;
}

/** @param {string} id */
export const path = (id) => `llmchat/sessions/${encodeURIComponent(id)}`;
