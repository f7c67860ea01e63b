/** Keys that work wherever one is on the page, and the button that the first of them stands for. */
import { toComposer } from "../focus.js";
import { html } from "../html.js";
import { dismiss } from "../problem.js";
import { fresh } from "../session.js";
import { giveWay, possible, setOpen } from "../sidebar.js";
import { strings } from "../strings.js";
import { Icon } from "./icon.js";

export const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

/** How the key is called that commands begin with. */
export const COMMAND = APPLE ? "⌘" : "Ctrl+";

/** A new conversation, with the cursor where one writes. */
export function begin() {
  giveWay();
  dismiss();
  fresh();
  requestAnimationFrame(toComposer);
}

/** Where words are looked for. */
function search() {
  setOpen(true);
  requestAnimationFrame(() => document.querySelector(".search input")?.select());
}

/** @returns {() => void} to listen no longer */
export function listenForKeys() {
  const onKey = (event) => {
    const run = commandOf(event);
    if (!run || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    run();
  };
  document.addEventListener("keydown", onKey);
  return () => document.removeEventListener("keydown", onKey);
}

/** @param {KeyboardEvent} event */
function commandOf({ key, shiftKey, ctrlKey, metaKey, altKey, defaultPrevented }) {
  const command = (APPLE ? metaKey : ctrlKey) && !altKey; // a bare letter could come from who speaks to the page
  if (!command || defaultPrevented) return null;
  if (shiftKey && key.toLowerCase() === "o") return begin;
  return possible.value && !shiftKey && key.toLowerCase() === "k" ? search : null;
}

/** @param {{label?: boolean}} props whether there is room for words */
export function Begin({ label = false }) {
  const title = `${strings.sidebar.fresh} (${COMMAND}${APPLE ? "⇧" : "Shift+"}O)`;
  return html`
    <button type="button" class=${label ? "button fresh" : "icon-button"} data-testid="new-chat" title=${title} aria-label=${strings.sidebar.fresh}
      aria-keyshortcuts=${APPLE ? "Meta+Shift+O" : "Control+Shift+O"} onClick=${begin}>
      <${Icon} name="edit" />${label && html`<span>${strings.sidebar.fresh}</span>`}
    </button>
  `;
}
