/** Other ways for a conversation to go: messages said anew, answers asked for again, and what was left for them. */
import { post } from "./api.js";
import { sessionId } from "./conversation.js";
import { user } from "./principal.js";
import { dismiss, report } from "./problem.js";
import { exchange, messages, reload, send, textOf, working } from "./session.js";

/** @typedef {import("./turn.js").Message} Message */

/** What stays on the page when a question is asked anew: all that comes before it. @param {Message} question */
const before = (question) => (all) => all.slice(0, all.findIndex((one) => one.peek().id === question.id));

/** Say something else instead of a question. @param {Message} question @param {string} text */
export function revise(question, text) {
  const files = (question.files ?? []).filter((file) => file.upload_id);
  const own = { message: text, edit: question.record, ...(files.length && { attachments: files.map((file) => file.upload_id) }) };
  return exchange({ text, files, own, keep: before(question) });
}

/** Ask for another answer; a question that is not recorded is sent. @param {Message} answer */
export function again(answer) {
  const question = questionOf(answer);
  if (!question) return undefined;
  if (!question.record) return send(textOf(question), moreOf(question), before(question));
  const own = { message_id: question.record };
  return exchange({ text: textOf(question), files: question.files, own, path: "llmchat/retry", keep: before(question) });
}

/** What went with a question. @param {Message} question @returns {import("./session.js").More} */
function moreOf({ files = [], prompt }) {
  const [sent, named] = [files.filter((file) => file.upload_id), files.filter((file) => !file.upload_id)];
  return { attachments: sent.map(({ upload_id: id, name, media_type: type }) => ({ id, name, type })), resources: named, prompt };
}

/** The question that an answer belongs to. @param {Message} answer */
function questionOf({ id }) {
  const all = messages.value.map((one) => one.value);
  return all.slice(0, all.findIndex((one) => one.id === id)).findLast(({ role }) => role === "user");
}

/** Show another branch. @param {string} id its first message */
export async function show(id) {
  if (working.value) return;
  dismiss();
  try {
    const session = encodeURIComponent(sessionId());
    await post(`llmchat/sessions/${session}/branches/${encodeURIComponent(id)}`, { user_id: user.value.id });
  } catch (error) {
    report(error);
  }
  await reload().catch(report);
}
