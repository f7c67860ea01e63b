/** Values as people read them. Everything here returns text, never HTML. */
import { formats } from "./language.js";
import { strings } from "./strings.js";

/** @param {number} ms */
export const duration = (ms) => formats().duration(ms);

/** A size in bytes. @param {number} bytes */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} kB` : `${Number((bytes / 1_000_000).toFixed(1))} MB`;
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
const ATTACHED = /[\u00ad\ufe00-\ufe0f\u{e0100}-\u{e01ef}]/gu;
const MISLEADING = /[\u202a-\u202e]|(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]{0,6})[\u{e0000}-\u{e007f}]/gu;

/** What others named, said or returned, so that nothing in it hides or turns the text around it. @param {string} text */
export const visible = (text) => text.replace(UNSEEN, sign);

/** The name of a tool or a server, by which it is told from others: no sign in it that is not seen by itself, either. @param {string} text */
export const distinct = (text) => visible(text).replace(ATTACHED, sign);

/** The same within JSON, where it stays what it is. @param {string} text */
export const escaped = (text) =>
  text.replace(UNSEEN, (character) => character.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join(""));

/** Prose needs more: marks for Hebrew and Arabic stay, and so do the tags of a flag. @param {string} text */
export const plain = (text) => (SUSPECT.test(text) ? text.replace(MISLEADING, sign) : text);

/** Quick to look for, and in all that misleads: a long text is read many times while it arrives. */
const SUSPECT = /[\u202a-\u202e\udb40]/;

/** @param {string} character */
const sign = (character) => `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;

/** A moment: the time of day, with the date unless it is today; and all of it. @param {string} at */
export function moment(at) {
  const when = new Date(at);
  const today = when.toDateString() === new Date().toDateString();
  const day = today ? {} : { day: "numeric", month: "short", ...(when.getFullYear() !== new Date().getFullYear() && { year: "numeric" }) };
  return {
    short: formats().moment(when, { ...day, hour: "2-digit", minute: "2-digit" }),
    long: formats().moment(when, { dateStyle: "full", timeStyle: "medium" }),
  };
}

/** How long an answer took and what it cost. @param {import("./turn.js").Message} message */
export function figures({ elapsed, usage }) {
  return [elapsed ? duration(elapsed) : "", spent(usage)].filter(Boolean).join(" · ");
}

/** Tokens, and money where the price is known. @param {import("./spent.js").Usage | undefined} usage */
export function spent(usage) {
  const tokens = (usage?.input_tokens ?? 0) + (usage?.output_tokens ?? 0);
  if (!tokens) return "";
  const count = strings.message.tokens(tokens);
  return [usage.estimated ? strings.message.about(count) : count, usage.cost ? formats().money(usage.cost) : ""]
    .filter(Boolean).join(" · ");
}
