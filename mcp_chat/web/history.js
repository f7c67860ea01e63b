/** The recorded conversation as the messages that the page shows. Pure. */
import { strings } from "./strings.js";
import { closeTools } from "./turn.js";

/**
 * Everything between two messages of the user is one answer: texts, tool calls, and the calls' results.
 * @param {object[]} records oldest first
 * @param {boolean} running whether the last answer is still being made
 * @returns {import("./turn.js").Message[]}
 */
export function messagesOf(records, running) {
  const messages = [];
  for (const record of records) add(messages, record);
  if (messages.at(-1)?.role === "user") messages.push(running ? answer("running") : unanswered(messages));
  return messages.map((message, index) => settle(message, running && index === messages.length - 1));
}

/** @type {Record<string, (messages: object[], record: object) => void>} */
const readers = {
  user(messages, record) {
    if (messages.at(-1)?.role === "user") messages.push(unanswered(messages));
    messages.push({ id: record.id, role: "user", parts: [text(record)], state: "done" });
  },
  assistant(messages, record) {
    const message = current(messages, record);
    if (record.content) message.parts.push(text(record));
    message.parts.push(...(record.tool_calls ?? []).map(call));
    if (record.metadata?.stopped) message.state = "stopped";
    if (record.metadata?.interrupted) Object.assign(message, broken(strings.message.interrupted));
  },
  tool(messages, record) {
    const part = findCall(messages, record.tool_call_id);
    if (!part) return;
    const elapsed = record.metadata?.elapsed_ms;
    Object.assign(part, { state: record.status === "error" ? "error" : "done", result: record.content, elapsed });
  },
};

const add = (messages, record) => Object.hasOwn(readers, record.role) && readers[record.role](messages, record);

/** The answer that is being put together, begun if need be. */
function current(messages, record) {
  if (messages.at(-1)?.role !== "assistant") messages.push(answer(record.id));
  return messages.at(-1);
}

/** A question without an answer: its turn failed before anything was said. */
const unanswered = (messages) => ({ ...answer(`after-${messages.at(-1).id}`), ...broken(strings.message.unanswered) });

const broken = (error) => ({ state: "failed", error, recoverable: true });

const answer = (id) => ({ id, role: "assistant", parts: [], state: "done" });

const text = (record) => ({ kind: "text", text: record.content ?? "" });

const call = ({ id, name, args }) => ({ kind: "tool", id, tool: name, args, state: "running" });

/** The newest first: ids need only be unique within a turn. */
function findCall(messages, id) {
  const parts = messages.flatMap((message) => message.parts);
  return parts.findLast((part) => part.kind === "tool" && part.id === id);
}

const settle = (message, running) =>
  running ? { ...message, state: "running" } : { ...message, parts: closeTools(message.parts, strings.tool.lost) };
