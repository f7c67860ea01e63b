/** Rendered Markdown that does not flicker: while text streams in, only the block that changes is touched. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { blocks } from "../markdown.js";
import { strings } from "../strings.js";
import { useMemo } from "../vendor/preact-hooks.js";
import { CopyButton } from "./copy.js";

/** @param {{source: string}} props */
export function Markdown({ source }) {
  const parts = useMemo(() => blocks(source), [source]);
  return html`
    <div class="prose" data-testid="message-text">${parts.map((block, index) => html`<${Block} key=${index} block=${block} />`)}</div>
  `;
}

/** @param {{block: import("../markdown.js").Block}} props */
function Block({ block }) {
  if (block.kind === "code") return html`<${Code} text=${block.text} lang=${block.lang} />`;
  return html`<${Html} block=${block} />`;
}

/** `block.html()` is the sanitiser's output: the only HTML that is ever put into the page as such. */
function Html({ block }) {
  const safe = useMemo(() => ({ __html: block.html() }), [block.key]);
  return html`<div class="block ${block.kind}" dir="auto" dangerouslySetInnerHTML=${safe} />`;
}

/** @param {{text: string, lang: string}} props */
function Code({ text, lang }) {
  return html`
    <figure class="code">
      <figcaption>
        <span>${visible(lang) || strings.message.code}</span><${CopyButton} text=${text} label=${strings.message.copyCode} />
      </figcaption>
      <pre tabindex="0"><code>${visible(text)}</code></pre>
    </figure>
  `;
}
