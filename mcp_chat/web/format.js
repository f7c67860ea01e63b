/** Values as people read them. Everything here returns text, never HTML. */
import { strings } from "./strings.js";

/** @param {number} ms */
export function duration(ms) {
  if (ms < 1000) return `${Math.max(1, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** "alias__name" apart; a tool name may itself hold underscores. @param {string} full */
export function toolName(full) {
  const cut = full.indexOf("__");
  return cut > 0 ? { server: full.slice(0, cut), name: full.slice(cut + 2) } : { server: "", name: full };
}

/** Any value as text: indented if it is JSON, as it is otherwise. @param {unknown} value */
export function pretty(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  if (!/^\s*[[{]/.test(value)) return value;
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}

/** One short line that says what a call was given. @param {unknown} args */
export function brief(args) {
  const plain = args && typeof args === "object" && !Array.isArray(args);
  const text = plain ? Object.entries(args).map(([key, value]) => `${key}: ${flat(value)}`).join(", ") : flat(args);
  return oneLine(text);
}

/** @param {string} text */
export const oneLine = (text) => text.replace(/\s+/g, " ").trim().slice(0, 160);

/** @param {unknown} value */
const flat = (value) => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));

/** How long an answer took and what it cost. @param {import("./turn.js").Message} message */
export function figures({ elapsed, usage }) {
  const tokens = (usage?.input_tokens ?? 0) + (usage?.output_tokens ?? 0);
  return [elapsed ? duration(elapsed) : "", tokens ? strings.message.tokens(tokens) : ""].filter(Boolean).join(" · ");
}
