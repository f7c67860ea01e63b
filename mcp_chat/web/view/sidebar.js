/** What stands beside the page: the user's conversations, and what can be looked for in them. */
import { html } from "../html.js";
import { focus, onceLost } from "../focus.js";
import { user } from "../principal.js";
import { dismiss, report } from "../problem.js";
import { announcement } from "../session.js";
import { doomed, keepInStep, nameOf } from "../sessions.js";
import { drawer, giveWay, isOpen, possible, query, setOpen } from "../sidebar.js";
import { strings } from "../strings.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Conversations } from "./conversations.js";
import { Icon, Mark } from "./icon.js";
import { lazy } from "./lazy.js";
import { SearchField } from "./search.js";
import { Begin, listenForKeys } from "./shortcuts.js";

const Erase = lazy(() => import("./erase.js").then((module) => module.Erase), "style/dialog.css");
const Results = lazy(() => import("./results.js").then((module) => module.Results), "style/results.css");

export function Sidebar() {
  useEffect(keepInStep, []);
  useEffect(() => () => ([query.value, doomed.value] = ["", null]), []); // who comes next has something else in mind
  useEffect(listenForKeys, []);
  return html`${possible.value && isOpen.value && html`<${Box} />`}${doomed.value && html`<${Erase} key=${doomed.value.session_id} session=${doomed.value} />`}`;
}

function Box() {
  const [box, over] = [useRef(null), useSignal(false)];
  useLayoutEffect(() => takeFocus(box.current), [drawer.value]);
  const onKey = ({ key }) => key === "Escape" && drawer.value && setOpen(false);
  return html`
    ${drawer.value && html`<div class="scrim" onClick=${() => setOpen(false)} />`}
    <nav class="sidebar" id="sidebar" ref=${box} aria-label=${strings.sidebar.title} data-testid="sidebar" data-over=${over.value}
      onKeyDown=${onKey} ...${dropping(over)}>
      <div class="top">
        <div class="brand"><${Mark} /><span>${strings.product}</span></div>
        <button type="button" class="icon-button" data-testid="sidebar-hide" aria-expanded="true" aria-controls="sidebar"
          aria-label=${strings.sidebar.hide} title=${strings.sidebar.hide} onClick=${() => setOpen(false)}><${Icon} name="panel" /></button>
      </div>
      <${Begin} label />
      <${SearchField} />
      <div class="scroll">${query.value.trim() ? html`<${Results} />` : html`<${Conversations} />`}</div>
      <${Bring} />
      ${over.value && html`<p class="drop" aria-hidden="true">${strings.sidebar.drop}</p>`}
    </nav>
  `;
}

/** Where one is in a drawer that has just come, and where one was when it goes. @param {HTMLElement} box */
function takeFocus(box) {
  if (drawer.value) focus("[data-testid=sidebar-hide]", box);
  return () => {
    const lost = box.contains(document.activeElement) || document.activeElement === document.body;
    if (lost) onceLost(() => focus("[data-testid=sidebar-show]"));
  };
}

/** An exported conversation, as a file. */
function Bring() {
  const field = useRef(null);
  return html`
    <div class="foot">
      <button type="button" class="button small quiet" data-testid="import" title=${strings.sidebar.bringTitle} onClick=${() => field.current.click()}>
        <${Icon} name="import" />${strings.sidebar.bring}
      </button>
      <input type="file" hidden accept=".json,application/json" ref=${field} data-testid="import-file" onChange=${({ target }) => {
        const [file] = target.files;
        if (file) take(file);
        target.value = ""; // so that the same file can be chosen again
      }} />
    </div>
  `;
}

/** What makes a place take dropped files. @param {{value: boolean}} over whether one is held over it */
function dropping(over) {
  const holds = (event) => event.dataTransfer?.types.includes("Files");
  const hear = (action) => (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    event.stopPropagation(); // what is dropped on the page goes with the next message
    action(event);
  };
  return {
    onDragOver: hear(() => (over.value = true)),
    onDragLeave: hear((event) => (over.value = event.currentTarget.contains(event.relatedTarget))),
    onDrop: hear(({ dataTransfer }) => {
      over.value = false;
      if (dataTransfer.files[0]) take(dataTransfer.files[0]);
    }),
  };
}

/** @param {File} file */
async function take(file, who = user.value) {
  if (who !== user.value) return; // it was somebody else's
  giveWay();
  dismiss();
  const editing = await import("../editing.js").catch((error) => {
    console.error(error); // it may not be the network
    report(strings.errors.unreachable, { label: strings.retry, run: () => take(file, who) });
  });
  if (who === user.value) await editing?.bring(file).then((session) => (announcement.value = strings.sidebar.brought(nameOf(session))), report);
}
