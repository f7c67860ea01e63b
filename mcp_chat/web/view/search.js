/** The field for words that are looked for. */
import { html } from "../html.js";
import { query } from "../sidebar.js";
import { strings } from "../strings.js";
import { Icon } from "./icon.js";
import { APPLE, COMMAND } from "./shortcuts.js";

export function SearchField() {
  const clear = (event) => {
    query.value = "";
    event.target.closest(".search").querySelector("input").focus();
  };
  return html`
    <div class="search" role="search">
      <${Icon} name="search" />
      <input type="text" inputmode="search" enterkeyhint="search" dir="auto" autocomplete="off" spellcheck=${false} data-testid="search"
        aria-label=${strings.sidebar.searchLabel} aria-keyshortcuts=${APPLE ? "Meta+K" : "Control+K"} placeholder=${strings.sidebar.search}
        value=${query.value} onInput=${(event) => (query.value = event.target.value)} onKeyDown=${onKey} />
      ${query.value
        ? html`<button type="button" class="icon-button small" aria-label=${strings.sidebar.clear} title=${strings.sidebar.clear} onClick=${clear}><${Icon} name="close" /></button>`
        : html`<kbd aria-hidden="true">${COMMAND}K</kbd>`}
    </div>
  `;
}

/** Escape gives the search up, and Down leads to what was found, or to the list. @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key === "Escape" && query.value) {
    event.stopPropagation();
    query.value = "";
  }
  if (event.key !== "ArrowDown") return;
  event.preventDefault();
  event.target.closest(".sidebar").querySelector("[data-row] button")?.focus();
}
