/** A text of any length: its beginning first, all of it when asked for, without holding the page up. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useEffect, useMemo } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";

const FIRST = 8000;
const PIECE = 16_000;

/**
 * @param {{text: string, testid?: string, label?: string, more?: (() => Promise<void>) | null}} props `text` is text and stays
 *   text; `more` fetches the rest of one that was shortened elsewhere
 */
export function LongText({ text, testid, label, more }) {
  const all = useSignal(false);
  const count = useSignal(1);
  const pieces = useMemo(() => cut(text), [text]);
  useEffect(() => grow(all.value, count, pieces.length), [all.value, count.value, pieces]);
  const hidden = all.value ? 0 : text.length - Math.min(text.length, FIRST);
  const press = () => (hidden ? (all.value = true) : more());
  const shown = all.value ? pieces.slice(0, count.value) : [text.slice(0, FIRST)];
  return html`
    <pre class="long" dir="auto" tabindex="0" aria-label=${label} data-testid=${testid}>${shown.map((piece, index) => html`<${Piece} key=${index} text=${piece} />`)}</pre>
    ${(hidden > 0 || more) && html`
      <button type="button" class="button small" data-testid="show-all" onClick=${press}>
        ${hidden > 0 ? strings.tool.showAll(hidden) : strings.tool.showWhole}
      </button>
    `}
  `;
}

/** One piece a frame: each is small, and the browser leaves out those that are not in sight. */
function grow(all, count, most) {
  if (!all || count.value >= most) return undefined;
  const due = requestAnimationFrame(() => count.value++);
  return () => cancelAnimationFrame(due);
}

function Piece({ text }) {
  const shown = useMemo(() => visible(text), [text]);
  return html`<span class="piece">${shown}</span>`;
}

/** Pieces that end where a line does, if one ends soon. @param {string} text */
function cut(text) {
  const pieces = [];
  for (let from = 0; from < text.length;) {
    const line = text.indexOf("\n", from + PIECE);
    const to = line < 0 || line > from + 2 * PIECE ? Math.min(text.length, from + 2 * PIECE) : line + 1;
    pieces.push(text.slice(from, to));
    from = to;
  }
  return pieces;
}
