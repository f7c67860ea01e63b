/** What can be done with a conversation, as a menu under its button. */
import { carryAway } from "../editing.js";
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { doom } from "../sessions.js";
import { strings } from "../strings.js";
import { useLayoutEffect } from "../vendor/preact-hooks.js";
import { Icon } from "./icon.js";

const GAP_PX = 4;

/** Whether the user has not gone on to write something. */
const isWanted = () => !document.activeElement?.matches("input, textarea, select");

/**
 * @param {{box: {current: HTMLElement}, button: {current: HTMLElement}, isShown: {value: boolean}, label: string,
 *   session: import("../sessions.js").Session, rename: () => void}} props
 */
export function Items({ box, button, isShown, label, session, rename }) {
  const items = [
    { icon: "edit", label: strings.sidebar.rename, testid: "rename", run: rename },
    { icon: "download", label: strings.sidebar.exportJson, testid: "export-json", run: () => save(session, "json") },
    { icon: "download", label: strings.sidebar.exportMarkdown, testid: "export-markdown", run: () => save(session, "markdown") },
    { icon: "trash", label: strings.sidebar.erase, testid: "delete", run: () => doom(session) },
  ];
  useLayoutEffect(() => void (isWanted() && box.current.showPopover()), []); // they were asked for before they were there
  useLayoutEffect(() => {
    if (isShown.value) place(box.current, button.current);
  }, [isShown.value]);
  const choose = (run) => {
    box.current.hidePopover(); // the button has the focus again
    run();
  };
  return html`
    <div class="menu" role="menu" popover="auto" ref=${box} aria-label=${label} onKeyDown=${onKey}
      onToggle=${(event) => (isShown.value = event.newState === "open")}>
      ${isShown.value && items.map((item) => html`
        <button type="button" role="menuitem" tabindex="-1" key=${item.testid} data-testid=${item.testid} onClick=${() => choose(item.run)}>
          <${Icon} name=${item.icon} />${item.label}
        </button>
      `)}
    </div>
  `;
}

/** Under its button, or over it, from where a line begins, and within the window. @param {HTMLElement} box @param {HTMLElement} button */
function place(box, button) {
  const at = button.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const start = getComputedStyle(button).direction === "rtl" ? at.right - width : at.left;
  const under = at.bottom + GAP_PX + height <= innerHeight;
  box.style.top = `${under ? at.bottom + GAP_PX : Math.max(GAP_PX, at.top - GAP_PX - height)}px`;
  box.style.left = `${Math.max(GAP_PX, Math.min(start, innerWidth - width - GAP_PX))}px`;
  box.firstElementChild.focus();
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const items = [...event.currentTarget.children];
  const at = items.indexOf(document.activeElement);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === "Tab") event.currentTarget.hidePopover(); // the button has the focus again, from where it goes on
  if (event.key === "Escape") event.stopPropagation(); // the browser closes it, and nothing else shall close
  if (next === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  items.at(next % items.length).focus();
}

/** @param {import("../sessions.js").Session} session @param {"json" | "markdown"} format */
function save(session, format) {
  dismiss();
  carryAway(session.session_id, format).catch(report);
}
