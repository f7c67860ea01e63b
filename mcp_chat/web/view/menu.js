/** A list to choose from over the field that it is filtered by: the focus stays in the field. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { useLayoutEffect } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";

/** @typedef {{key: string, title: string, aside?: string, detail?: string}} Option */

/**
 * The keys of a list: they move in it, choose from it and close it.
 * @template {Option} T
 * @param {T[]} options @param {string} query what they were found by @param {(option: T) => void} choose @param {() => void} close
 * @param {number} [first] where it begins: -1 where nothing needs to be chosen, so that Enter and Tab are the field's until something is
 * @returns {{place: number, onKey: (event: KeyboardEvent) => boolean}} `onKey` tells whether the key was for the list
 */
export function useMenu(options, query, choose, close, first = 0) {
  const at = useSignal(first);
  useLayoutEffect(() => void (at.value = first), [query, options.length > 0]);
  const count = options.length;
  const place = Math.min(at.value, count - 1);
  const keys = {
    ArrowDown: () => (at.value = (place + 1) % count),
    ArrowUp: () => (at.value = (Math.max(place, 0) - 1 + count) % count),
    ...(place >= 0 && { Enter: () => choose(options[place]), Tab: () => choose(options[place]) }),
    Escape: close,
  };
  const onKey = (event) => {
    if (!count || event.isComposing || event.shiftKey || !Object.hasOwn(keys, event.key)) return false;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
    return true;
  };
  return { place, onKey };
}

/** @param {{id: string, label: string, options: Option[], place: number, choose: (option: Option) => void}} props */
export const Menu = ({ id, label, options, place, choose }) => html`
  <ul class="menu" role="listbox" id=${id} aria-label=${label} data-testid=${id} onPointerDown=${(event) => event.preventDefault()}>
    ${options.map((option, index) => html`
      <${Entry} key=${option.key} id="${id}-${index}" option=${option} chosen=${index === place} choose=${choose} />
    `)}
  </ul>
`;

function Entry({ id, option, chosen, choose }) {
  useLayoutEffect(() => void (chosen && document.getElementById(id)?.scrollIntoView({ block: "nearest" })), [chosen]);
  const { title, aside, detail } = option;
  return html`
    <li role="option" id=${id} aria-selected=${chosen} onClick=${() => choose(option)}>
      <b dir="auto">${visible(title)}</b>${aside && html`<span class="chip" dir="auto">${visible(aside)}</span>`}
      ${detail && html`<small dir="auto">${visible(detail)}</small>`}
    </li>
  `;
}
