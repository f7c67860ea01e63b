/** The list of conversations, by day. */
import { byDay } from "../days.js";
import { focus, onceLost } from "../focus.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { show } from "../session.js";
import { current, doom, fault, look, lookFurther, nameOf, older, sessions } from "../sessions.js";
import { giveWay } from "../sidebar.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { End } from "./end.js";
import { Menu } from "./rowmenu.js";
import { useRows } from "./rows.js";
import { lazy } from "./lazy.js";

const Rename = lazy(() => import("./rename.js").then((module) => module.Rename));

export function Conversations() {
  const all = sessions.value ?? [];
  const { tabindex, events } = useRows(all.map((one) => one.session_id), current.value);
  if (!all.length) return html`<${Empty} />`;
  return html`
    <div class="conversations" data-testid="conversations" ...${events}>
      ${byDay(all).map((group) => html`
        <section key=${group.when} aria-labelledby=${`when-${group.when}`}>
          <h2 id=${`when-${group.when}`}>${strings.sidebar.when[group.when]}</h2>
          <ul>${group.sessions.map((session) => html`<${Row} key=${session.session_id} session=${session} tabindex=${tabindex(session.session_id)} />`)}</ul>
        </section>
      `)}
    </div>
    <${End} key=${older.value} more=${older.value} reached=${() => lookFurther().catch(report)} />
  `;
}

function Empty() {
  if (fault.value) {
    return html`
      <div class="nothing" role="status">
        <p dir="auto">${visible(fault.value)}</p><button type="button" class="button small" onClick=${look}>${strings.retry}</button>
      </div>
    `;
  }
  return sessions.value && html`<p class="nothing">${strings.sidebar.none}</p>`;
}

/** @param {{session: import("../sessions.js").Session, tabindex: 0 | -1}} props */
function Row({ session, tabindex }) {
  const renaming = useSignal(false);
  const id = session.session_id;
  const rename = () => (renaming.value = true);
  const open = () => {
    giveWay();
    if (id !== current.value) show(id);
  };
  const done = () => {
    renaming.value = false;
    onceLost(() => focus(`.conversations [data-row="${CSS.escape(id)}"] button`));
  };
  const keys = { F2: rename, Delete: () => doom(session) };
  const onKey = (event) => {
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    dismiss();
    keys[event.key]();
  };
  if (renaming.value) return html`<li class="conversation" data-row=${id}><${Rename} session=${session} done=${done} /></li>`;
  return html`
    <li class="conversation" data-row=${id} data-testid="conversation">
      <button type="button" class="open" tabindex=${tabindex} aria-current=${id === current.value ? "true" : undefined} title=${nameOf(session)}
        aria-keyshortcuts="F2 Delete" onClick=${open} onDblClick=${rename} onKeyDown=${onKey}>
        <span class="name" dir="auto">${nameOf(session)}</span>
        ${session.running && html`<span class="dot live" role="img" aria-label=${strings.sidebar.running} data-testid="conversation-running" />`}
      </button>
      <${Menu} session=${session} rename=${rename} tabindex=${tabindex} />
    </li>
  `;
}
