/** How many tools there are, and on demand which. */
import { toolName, visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { Icon } from "./icon.js";

/** @param {{names: string[]}} props */
export function Tools({ names }) {
  const box = useRef(null);
  useEffect(() => closeWhenLeft(box.current), []);
  return html`
    <details class="tools" ref=${box}>
      <summary class="button small quiet">
        <span data-testid="tool-count">${strings.status.tools(names.length)}</span><${Icon} name="chevron" />
      </summary>
      <div class="panel">
        <h2>${strings.status.toolList}</h2>
        ${!names.length && html`<p>${strings.status.noTools}</p>`}
        <ul>${names.map((full) => html`<${Tool} key=${full} full=${full} />`)}</ul>
      </div>
    </details>
  `;
}

/** @param {{full: string}} props */
function Tool({ full }) {
  const { server, name } = toolName(full);
  return html`<li dir="auto"><code>${visible(name)}</code>${server && html`<span class="chip">${visible(server)}</span>`}</li>`;
}

/** Escape, or a click elsewhere, closes it. @param {HTMLDetailsElement} box */
function closeWhenLeft(box) {
  const onPointer = (event) => box.contains(event.target) || (box.open = false);
  const onKey = (event) => {
    if (event.key !== "Escape" || !box.open) return;
    box.open = false;
    box.querySelector("summary").focus();
  };
  document.addEventListener("pointerdown", onPointer);
  document.addEventListener("keydown", onKey);
  return () => {
    document.removeEventListener("pointerdown", onPointer);
    document.removeEventListener("keydown", onKey);
  };
}
