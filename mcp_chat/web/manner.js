/** How the conversation is answered: its model, system prompt and temperature. */
import { get, patch } from "./api.js";
import { own } from "./connection.js";
import { sessionId } from "./conversation.js";
import { user } from "./principal.js";

const path = (session) => `llmchat/sessions/${encodeURIComponent(session)}`;

/** @param {string} session @returns {Promise<{system_prompt: string | null, temperature: number | null, model: string | null}>} */
export const loadManner = (session) => get(`${path(session)}?user_id=${encodeURIComponent(user.value.id)}`);

/** @param {string} session @param {string} prompt @param {string} temperature empty for the model's own @param {string} [model] empty for that of the connection */
export async function saveManner(session, prompt, temperature, model) {
  const saved = await patch(path(session), {
    user_id: user.value.id,
    system_prompt: prompt.trim() ? prompt : null,
    temperature: temperature === "" ? null : Number(temperature),
    ...(model !== undefined && { model: model || null }),
  });
  if (session === sessionId()) own.value = saved.model;
}
