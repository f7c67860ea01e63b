/** Rendered Markdown that does not flicker: while text streams in, only the block that changes is touched. */
import { coloured, isKnown } from "../colours.js";
import { visible } from "../format.js";
import { drawFormulas } from "../formula.js";
import { html } from "../html.js";
import { reader } from "../markdown.js";
import { sheet } from "../sheet.js";
import { strings } from "../strings.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { CopyButton } from "./copy.js";

const PART = 4000;

/** @param {{source: string, growing?: boolean}} props `growing`: more of it is to come */
export function Markdown({ source, growing = false }) {
  const [read] = useState(reader);
  const [drawn] = useState(() => new WeakMap());
  const parts = useMemo(() => read(source, growing), [source, growing]);
  const last = parts.length - 1;
  return html`
    <div class="prose" data-testid="message-text">
      ${parts.map((block, index) => known(drawn, block, index, growing && index === last))}
    </div>
  `;
}

/** A block that was drawn before is not even looked at. */
function known(drawn, block, index, open) {
  const before = drawn.get(block);
  if (before?.open === open) return before.node;
  const node = html`<${Block} key=${index} block=${block} open=${open} />`;
  drawn.set(block, { node, open });
  return node;
}

/** @param {{block: import("../markdown.js").Block, open: boolean}} props `open`: it still changes */
function Block({ block, open }) {
  if (block.kind === "code") return html`<${Code} text=${block.text} lang=${block.lang} open=${open} />`;
  return block.kind === "table" ? html`<${Table} block=${block} />` : html`<${Html} block=${block} />`;
}

/** `block.html()` is the sanitiser's output: the only HTML that is ever put into the page as such. */
function Html({ block, more = {} }) {
  const place = useRef(null);
  const safe = useMemo(() => ({ __html: block.html() }), [block.key]);
  useLayoutEffect(() => drawFormulas(place.current), [block.key]);
  return html`<div class="block ${block.kind} ${block.goesOn ? "goes-on" : ""}" dir="auto" ref=${place} ...${more} dangerouslySetInnerHTML=${safe} />`;
}

function Table({ block }) {
  const place = useRef(null);
  const rows = () => [...place.current.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
  return html`
    <figure class="sheet" ref=${place}>
      <${Html} block=${block} more=${{ tabindex: 0, role: "group", "aria-label": strings.message.table }} />
      <${CopyButton} text=${() => sheet(rows())} label=${strings.message.copyTable} testid="copy-table" />
    </figure>
  `;
}

/** @param {{text: string, lang: string, open?: boolean}} props */
export function Code({ text, lang, open = false }) {
  const shown = visible(text);
  const pieces = useColours(shown, lang, open);
  return html`
    <figure class="code">
      <figcaption>
        <span>${visible(lang) || strings.message.code}</span><${CopyButton} text=${text} label=${strings.message.copyCode} testid="copy-code" />
      </figcaption>
      <pre tabindex="0"><code>${pieces ? pieces.map(colour) : parts(shown)}</code></pre>
    </figure>
  `;
}

/** Long code in parts, of which only the last one changes while it arrives. @param {string} text */
function parts(text) {
  if (text.length < 2 * PART) return text;
  const found = [];
  for (let from = 0; from < text.length; ) {
    const end = text.indexOf("\n", from + PART);
    const to = end < 0 ? text.length : end + 1;
    found.push(html`<span class="part" key=${from}>${text.slice(from, to)}</span>`);
    from = to;
  }
  return found;
}

/** The pieces of code once it has all come and its colours are known: until then, its text is all there is. */
function useColours(text, lang, open) {
  const found = useSignal(null);
  useEffect(() => {
    if (open || !isKnown(lang, text)) return undefined;
    let gone = false;
    const show = (pieces) => gone || (found.value = { text, pieces });
    const timer = setTimeout(() => coloured(text, lang).then(show, () => {})); // without colours it can be read as well
    return () => ((gone = true), clearTimeout(timer));
  }, [text, lang, open]);
  return found.value?.text === text ? found.value.pieces : null;
}

const colour = ({ text, kind }) => (kind ? html`<span class=${`hl-${kind}`}>${text}</span>` : text);
