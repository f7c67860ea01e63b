/** The recorded conversation as the messages that the page shows. Pure. */
import { visible } from "./format.js";
import { sum, usageOf } from "./spent.js";
import { strings } from "./strings.js";
import { blockedBy, closeTools } from "./turn.js";

/**
 * Everything between two messages of the user is one answer: texts, tool calls, and the calls' results.
 * @param {object[]} records oldest first
 * @param {boolean} running whether the last answer is still being made
 * @returns {import("./turn.js").Message[]}
 */
export function messagesOf(records, running) {
  const messages = [];
  for (const record of records) add(messages, record);
  if (messages.at(-1)?.role === "user") messages.push(running ? answerTo(messages.at(-1), "running") : unanswered(messages));
  return messages.map((message, index) => settle(message, running && index === messages.length - 1));
}

/** @type {Record<string, (messages: object[], record: object) => void>} an answer knows the records that it is made of */
const readers = {
  user(messages, record) {
    if (messages.at(-1)?.role === "user") messages.push(unanswered(messages));
    if (record.metadata?.steer && messages.length) messages.at(-1).open = false; // the answer goes on behind it
    messages.push({ ...questionOf(record), id: record.id, branches: record.branches, failure: record.failure });
  },
  assistant(messages, record) {
    const message = current(messages, record);
    const { reasoning, ended, model, instead_of: instead } = record.metadata ?? {};
    message.records.push(record.id);
    message.at = record.created_at;
    if (typeof instead === "string") message.parts.push({ kind: "notice", code: "model_fallback", text: strings.message.insteadOf(visible(instead), visible(String(model ?? "-"))) });
    if (reasoning) message.parts.push({ kind: "thought", text: reasoning });
    if (record.content) message.parts.push(text(record));
    message.ended = ended;
    message.parts.push(...(record.tool_calls ?? []).map(call));
    message.open = Boolean(record.tool_calls?.length);
    message.elapsed = Math.max(0, Date.parse(record.created_at) - Date.parse(message.asked)) || undefined;
    if (record.metadata?.usage) message.usage = sum(message.usage, usageOf(record.metadata.usage));
    if (record.metadata?.blocked && !record.metadata.blocked.call_id) message.parts.push(blockedBy(record.metadata.blocked.plugin));
    if (record.metadata?.stopped) message.state = "stopped";
    if (record.metadata?.interrupted || record.failure) Object.assign(message, broken(strings.message.interrupted, record.failure));
  },
  tool(messages, record) {
    const message = messages.at(-1);
    message?.records.push(record.id);
    if (message && record.failure) Object.assign(message, broken(strings.message.interrupted, record.failure));
    const part = findCall(messages, record.tool_call_id);
    if (!part) return;
    const { elapsed_ms: elapsed, structured } = record.metadata ?? {};
    const state = record.status === "error" ? "error" : "done";
    Object.assign(part, { state, result: record.content, files: record.parts, structured, elapsed });
  },
};

const add = (messages, record) => Object.hasOwn(readers, record.role) && readers[record.role](messages, record);

/** The answer that is being put together, begun if need be. */
function current(messages, record) {
  if (messages.at(-1)?.role !== "assistant") messages.push(answerTo(messages.at(-1), record.id));
  return messages.at(-1);
}

/** A question without an answer: its turn failed before anything was said. */
const unanswered = (messages) => ({ ...answerTo(messages.at(-1), `after-${messages.at(-1).id}`), ...broken(strings.message.unanswered, messages.at(-1).failure) });

/** @param {string} error what is said if nobody knows better @param {{error: string, recoverable: boolean}} [failure] why the turn failed */
const broken = (error, failure) => ({ state: "failed", error: failure?.error ?? error, recoverable: failure?.recoverable ?? true });

/** A question as an event or the record has it. @param {object} record */
export function questionOf(record) {
  const { prompt } = record.metadata ?? {};
  return {
    role: "user", parts: [text(record)], state: "done", record: record.id, records: [record.id], at: record.created_at,
    files: record.parts ?? [], prompt,
  };
}

const answer = (id) => ({ id, role: "assistant", parts: [], records: [], state: "done" });

const answerTo = (question, id) => ({ ...answer(id), asked: question?.at, question: question?.id });

const text = (record) => ({ kind: "text", text: record.content ?? "" });

const call = ({ id, name, args }) => ({ kind: "tool", id, tool: name, args, state: "running" });

/** Ids need only be unique within a turn: of two the newest; a result stands right behind the answer that asks for it. */
const findCall = (messages, id) => messages.at(-1)?.parts.findLast((part) => part.kind === "tool" && part.id === id);

/** An answer is over when nothing is called any more; one that stopped before that has failed. */
function settle({ open, asked, failure, ...message }, running) {
  if (running) return { ...message, state: "running" };
  const failed = open && message.state === "done" ? broken(strings.message.interrupted) : {};
  return { ...message, ...failed, parts: closeTools(message.parts, strings.tool.lost) };
}
