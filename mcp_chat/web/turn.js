/**
 * An answer while it arrives: each event folded over a message gives the next message. Pure.
 *
 * @typedef {{kind: "text", text: string, marks?: [string, number][]}} TextPart where in the log how much was said
 * @typedef {"running" | "done" | "error"} ToolState
 * @typedef {{kind: "tool", id: string, tool: string, args: unknown, state: ToolState, result?: unknown,
 *   start?: number, elapsed?: number, progress?: {progress: number, total?: number, message?: string}}} ToolPart
 * @typedef {{id: string, role: "user" | "assistant", parts: (TextPart | ToolPart)[],
 *   state: "running" | "done" | "stopped" | "failed", error?: string, recoverable?: boolean,
 *   elapsed?: number, usage?: object}} Message
 */
import { strings } from "./strings.js";

/** @param {Message} message @param {{name: string, data: any, id?: string}} event @returns {Message} */
export function fold(message, { name, data, id = "" }) {
  return Object.hasOwn(steps, name) ? { ...message, ...steps[name](message, data, id) } : message;
}

/** @type {Record<string, (message: Message, data: any, id: string) => Partial<Message>>} */
const steps = {
  token: ({ parts }, { content }, id) => ({ parts: addText(parts, content ?? "", id) }),
  discard: ({ parts }, { after }) => ({ parts: parts.map((part) => keepText(part, after)).filter(saysSomething) }),
  tool_start: ({ parts }, data) => ({ parts: [...parts.filter((part) => part.id !== data.id), toolPart(data)] }),
  tool_progress: ({ parts }, data) => ({ parts: change(parts, data.id, { progress: data }) }),
  tool_end: ({ parts }, data) => ({ parts: finish(parts, data, "done", data.output, data.end) }),
  tool_error: ({ parts }, data) => ({ parts: finish(parts, data, "error", data.error, data.time) }),
  final: ({ parts }, data) => ({
    parts: closeTools(withContent(parts, data.content), data.stopped ? strings.tool.stopped : strings.tool.lost),
    state: data.stopped ? "stopped" : "done",
    elapsed: data.elapsed_ms,
    usage: data.usage,
  }),
  error: ({ parts }, data) => ({
    parts: closeTools(parts, strings.tool.lost),
    state: "failed",
    error: data.error,
    recoverable: data.recoverable,
  }),
};

/** Text goes on where it stopped, unless a tool came between. */
function addText(parts, text, id = "") {
  const last = parts.at(-1)?.kind === "text" ? parts.at(-1) : null;
  const said = (last?.text ?? "") + text;
  const part = { kind: "text", text: said, marks: [...(last?.marks ?? []), [id, said.length]] };
  return [...(last ? parts.slice(0, -1) : parts), part];
}

/** What a part had said up to a place in the log: the worker that said the rest has died. */
function keepText(part, after) {
  if (part.kind !== "text") return part;
  const marks = (part.marks ?? []).filter(([id]) => !isBehind(id, after));
  return { ...part, text: part.text.slice(0, marks.at(-1)?.[1] ?? 0), marks };
}

const saysSomething = (part) => part.kind !== "text" || part.text !== "";

/** @param {string} id @param {string} place both `epoch-number` */
function isBehind(id, place) {
  const [[epoch, number], [itsEpoch, itsNumber]] = [place, id].map((text) => text.split("-").map(Number));
  return itsEpoch > epoch || (itsEpoch === epoch && itsNumber > number);
}

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
function finish(parts, { id, tool }, state, result, time) {
  const known = parts.find((part) => part.kind === "tool" && part.id === id);
  if (!known) return [...parts, { kind: "tool", id, tool, args: null, state, result }];
  return change(parts, id, { state, result, elapsed: Date.parse(time) - known.start });
}

/** No call stays open when its turn is over. */
export const closeTools = (parts, why) =>
  parts.map((part) => (part.state === "running" ? { ...part, state: "error", result: why } : part));
