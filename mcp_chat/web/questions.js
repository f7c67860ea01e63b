/** What servers ask in the middle of a call, until it is answered or over. */
import { get } from "./api.js";
import { inSession, visit } from "./conversation.js";
import { signal } from "./vendor/signals.js";

/**
 * @typedef {{id: string, kind: "form" | "url" | "sign_in", server: string, message: string, schema?: object,
 *   url?: string, warning?: string | null, session_id: string, tool?: string | null}} Question
 * @type {{value: Question[]}}
 */
export const questions = signal([]);

let changes = 0; // news that a look may have overlooked

/** Look which there are; without any news the page goes on as it is. */
export async function loadQuestions() {
  const [before, { gone }] = [changes, visit()];
  const { questions: found = [] } = await get(`llmchat/questions${inSession()}`);
  if (before === changes && !gone.aborted) questions.value = found;
}

/** @param {{name: string, data: any}} event one of a turn's */
export function hearQuestion({ name, data }) {
  if (name === "question") put([...without(data.id), data]);
  if (name === "question_end") forget(data.id);
}

/** @param {string} id */
const without = (id) => questions.value.filter((question) => question.id !== id);

/** @param {string} id */
export const forget = (id) => put(without(id));

function put(list) {
  changes += 1;
  questions.value = list;
}
