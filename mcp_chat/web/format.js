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

const UNSEEN = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/gu;
const MISLEADING = /[\u202a-\u202e]|(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]{0,6})[\u{e0000}-\u{e007f}]/gu;

/** What others named, said or returned, so that nothing in it hides or turns the text around it. @param {string} text */
export const visible = (text) => text.replace(UNSEEN, sign);

/** Prose needs more: marks for Hebrew and Arabic stay, and so do the tags of a flag. @param {string} text */
export const plain = (text) => text.replace(MISLEADING, sign);

/** @param {string} character */
const sign = (character) => `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;

/** How long an answer took and what it cost. @param {import("./turn.js").Message} message */
export function figures({ elapsed, usage }) {
  const tokens = (usage?.input_tokens ?? 0) + (usage?.output_tokens ?? 0);
  return [elapsed ? duration(elapsed) : "", tokens ? strings.message.tokens(tokens) : ""].filter(Boolean).join(" · ");
}
