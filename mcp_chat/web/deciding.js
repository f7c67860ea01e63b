/** What the user says to what waits for them: a call that is to be allowed, or a server's question. */
import { get, post } from "./api.js";
import { forget as forgetApproval, loadApprovals } from "./approvals.js";
import { user } from "./principal.js";
import { forget as forgetQuestion } from "./questions.js";

const OVER = [404, 409, 410]; // decided elsewhere, or too late: in either case there is nothing left to decide
const LOOK_MS = 1000;

/** Look again and again while something is waited for that no stream tells of. @template T @param {Promise<T>} call @returns {Promise<T>} */
export async function whileAsked(call) {
  const timer = setInterval(() => loadApprovals().catch(() => {}), LOOK_MS);
  try {
    return await call;
  } finally {
    clearInterval(timer);
    loadApprovals().catch(() => {});
  }
}

/** @param {import("./approvals.js").Approval} approval @param {import("./approvals.js").Decision} decision @param {{arguments?: object, reason?: string}} [more] */
export async function decide({ id }, decision, more = {}) {
  try {
    await post(`llmchat/approvals/${encodeURIComponent(id)}`, { decision, ...more });
  } catch (error) {
    if (!OVER.includes(error.status)) throw error;
  }
  forgetApproval(id);
}

/** The schema of a call's arguments. @param {import("./approvals.js").Approval} approval @returns {Promise<object>} */
export const schemaOf = ({ id }) => get(`llmchat/approvals/${encodeURIComponent(id)}`).then(({ schema }) => schema);

/** @param {import("./questions.js").Question} question @param {"accept" | "decline" | "cancel"} action @param {object} [content] */
export async function reply({ id }, action, content) {
  try {
    await post(`llmchat/questions/${encodeURIComponent(id)}`, { user_id: user.value.id, action, ...(content && { content }) });
  } catch (error) {
    if (!OVER.includes(error.status)) throw error;
  }
  forgetQuestion(id);
}
