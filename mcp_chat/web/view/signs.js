/** What in the text field asks for a list over it: `/` at the beginning for prompts, `@` for resources. The list comes then. */
import { html } from "../html.js";
import { offering } from "../servers.js";
import { useRef } from "../vendor/preact-hooks.js";
import { signal, useSignal } from "../vendor/signals.js";
import { lazy } from "./lazy.js";

const Offers = lazy(() => import("./offers.js").then((module) => module.Offers), "style/menu.css");

/** The id of the list. */
export const LIST = "offers";

/**
 * What is asked for: where it stands, what is looked for, and in which list.
 * @typedef {{kind: "prompts" | "resources", query: string, from: number, until: number}} Asked
 * @typedef {{count: {value: number}, place: {value: number}, told: {value: string}, onKey: (event: KeyboardEvent) => boolean}} List
 *   what the field knows of its list: how many there are to choose from, which of them is marked, and what is said of them
 */
const SIGNS = [
  { sign: /^\/(\S*)$/, kind: "prompts", whole: true },
  { sign: /(?:^|\s)@(\S*)$/, kind: "resources", whole: false },
];

/** @param {string} text @param {number} caret @returns {Asked | null} */
function askedFor(text, caret) {
  const before = text.slice(0, caret);
  for (const { sign, kind, whole } of SIGNS) {
    const found = sign.exec(whole ? text : before);
    if (!found) continue;
    const [from, until] = whole ? [0, text.length] : [caret - found[1].length - 1, caret];
    return { kind, query: found[1], from, until };
  }
  return null;
}

/** @returns {List} */
const noList = () => ({ count: signal(0), place: signal(0), told: signal(""), onKey: () => false });

/** @param {{current: HTMLTextAreaElement}} field the text field that the list belongs to */
export function useOffers(field) {
  const [asked, wanted, known] = [useSignal(null), useRef(false), useRef(null)];
  const list = (known.current ??= noList());
  wanted.current ||= Boolean(asked.value && offering(asked.value.kind).length); // also if a server is ready only now
  const look = () => (asked.value = askedFor(field.current.value, field.current.selectionEnd));
  const forget = () => (asked.value = null);
  const view = html`
    ${wanted.current && html`<${Offers} asked=${asked} list=${list} />`}
    <div class="visually-hidden" aria-live="polite">${list.told.value}</div>
  `;
  return { count: list.count.value, place: list.place.value, onKey: (event) => list.onKey(event), look, forget, view };
}

/** What a field says of its list. @param {string} id @param {number} count of what there is to choose from @param {number} place */
export const described = (id, count, place) => ({
  "aria-autocomplete": "list",
  "aria-controls": count ? id : undefined,
  "aria-activedescendant": count && place >= 0 ? `${id}-${place}` : undefined,
});
