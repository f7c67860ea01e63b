/**
 * An answer while it arrives: each event folded over a message gives the next message. Pure.
 *
 * @typedef {{kind: "text" | "thought", text: string, marks?: [string, number][]}} TextPart where in the log how much was said
 * @typedef {"running" | "done" | "error"} ToolState
 * @typedef {{kind: "tool", id: string, tool: string, args: unknown, state: ToolState, result?: unknown,
 *   files?: object[], structured?: object, start?: number, elapsed?: number, progress?: {progress: number, total?: number, message?: string}}} ToolPart
 * @typedef {{kind: "notice", text: string, code?: string}} NoticePart what is going on while nothing is said
 * @typedef {{id: string, role: "user" | "assistant", parts: (TextPart | ToolPart | NoticePart)[], begun?: boolean,
 *   state: "running" | "done" | "stopped" | "failed" | "waiting" | "over", error?: string, recoverable?: boolean,
 *   elapsed?: number, usage?: import("./spent.js").Usage, ended?: "length" | "content_filter" | "refusal",
 *   question?: string, record?: string, records?: string[], branches?: {place: number, count: number, before: string?, after: string?},
 *   at?: string, files?: object[], prompt?: {server: string, name: string, arguments?: object}, turn?: string, pending?: boolean}} Message
 *   `record`: a question's id in the history; `records`: all of the history that it shows; `question`: of an answer, what it
 *   answers; `turn`: under which id it was sent; `pending`: it is not known to have arrived; `at`: when it was said
 */
import { visible } from "./format.js";
import { strings } from "./strings.js";

/** @param {Message} message @param {{name: string, data: any, id?: string}} event @returns {Message} */
export function fold(message, { name, data, id = "" }) {
  if (!Object.hasOwn(steps, name)) return message;
  const { parts } = message;
  return { ...message, ...steps[name]({ ...message, parts: parts.every(holds) ? parts : parts.filter(holds) }, data, id) };
}

/** @type {Record<string, (message: Message, data: any, id: string) => Partial<Message>>} */
const steps = {
  token: ({ parts }, { content }, id) => ({ parts: addText(parts, content ?? "", id) }),
  notice: ({ parts }, { text, code }) => ({ parts: [...parts.filter(holds), { kind: "notice", code, text: visible(text ?? "") }] }),
  blocked: ({ parts }, { plugin, call_id: call }) => (call ? {} : { parts: [...parts, blockedBy(plugin)] }), // a call's own card says it
  thinking: ({ parts }, { content }, id) => ({ parts: addText(parts, content ?? "", id, "thought") }),
  discard: ({ parts }, { after }) => ({ parts: parts.map((part) => keepText(part, after)).filter(saysSomething) }),
  tool_start: ({ parts }, data) => ({ parts: [...parts.filter((part) => part.id !== data.id), toolPart(data)] }),
  tool_progress: ({ parts }, data) => ({ parts: change(parts, data.id, { progress: data }) }),
  tool_end: ({ parts }, data) => ({ parts: finish(parts, data, "done", data.output, data.end) }),
  tool_error: ({ parts }, data) => ({ parts: finish(parts, data, "error", data.error, data.time) }),
  message: ({ parts, records = [] }, { message: record }) => ({
    records: [...records, record.id],
    at: record.created_at,
    ...(isBrought(record) && { parts: addText(parts, record.content) }),
  }),
  final: ({ parts, begun }, data) => ({
    parts: closeTools(begun ? parts : withContent(parts, data.content), data.stopped ? strings.tool.stopped : strings.tool.lost),
    state: data.stopped ? "stopped" : "done",
    elapsed: data.elapsed_ms,
    usage: data.usage,
    ended: data.ended,
  }),
  error: ({ parts }, data) => ({
    parts: closeTools(parts, strings.tool.lost),
    state: "failed",
    error: data.error,
    recoverable: data.recoverable,
  }),
};

/** Text goes on where it stopped, unless a tool or a thought came between; so do thoughts. */
function addText(parts, text, id = "", kind = "text") {
  const last = parts.at(-1)?.kind === kind ? parts.at(-1) : null;
  const said = (last?.text ?? "") + text;
  const part = { kind, text: said, marks: [...(last?.marks ?? []), [id, said.length]] };
  return [...(last ? parts.slice(0, -1) : parts), part];
}

/** What a part had said up to a place in the log: the worker that said the rest has died. */
function keepText(part, after) {
  if (part.kind === "tool" || part.kind === "notice") return part;
  const marks = (part.marks ?? []).filter(([id]) => !isBehind(id, after));
  return { ...part, text: part.text.slice(0, marks.at(-1)?.[1] ?? 0), marks };
}

/** Whether it is still so: once anything comes, a wait for the model's provider is over. */
const holds = ({ code }) => code !== "model_retry";

const saysSomething = (part) => part.kind === "tool" || part.text !== "";

/** @param {string} id @param {string} place both `epoch-number` */
function isBehind(id, place) {
  const [[epoch, number], [itsEpoch, itsNumber]] = [place, id].map((text) => text.split("-").map(Number));
  return itsEpoch > epoch || (itsEpoch === epoch && itsNumber > number);
}

/** That a plugin has ended the turn. @param {string} [plugin] @returns {NoticePart} */
export const blockedBy = (plugin) => ({ kind: "notice", code: "blocked", text: strings.message.blocked(visible(plugin || "-")) });

/** What a server's prompt puts into the model's mouth: nobody else says it. */
const isBrought = ({ role, metadata }) => role === "assistant" && Boolean(metadata?.prompt);

/** The final text counts only if none of it was streamed. */
function withContent(parts, content) {
  const streamed = parts.some((part) => part.kind === "text" && part.text);
  return streamed || !content ? parts : addText(parts, content);
}

/** @returns {ToolPart} */
const toolPart = ({ id, tool, input, start }) => ({
  kind: "tool", id, tool, args: input, state: "running", start: Date.parse(start),
});

const change = (parts, id, changes) =>
  parts.map((part) => (part.kind === "tool" && part.id === id ? { ...part, ...changes } : part));

/** @param {ToolState} state */
function finish(parts, { id, tool, files, structured }, state, result, time) {
  const known = parts.find((part) => part.kind === "tool" && part.id === id);
  if (!known) return [...parts, { kind: "tool", id, tool, args: null, state, result, files, structured }];
  return change(parts, id, { state, result, files, structured, elapsed: Date.parse(time) - known.start });
}

/** No call stays open when its turn is over. */
export const closeTools = (parts, why) =>
  parts.map((part) => (part.state === "running" ? { ...part, state: "error", result: why } : part));
