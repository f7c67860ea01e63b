/** The name of the conversation on the page. */
import { html } from "../html.js";
import { nameOf, open } from "../sessions.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { Menu } from "./rowmenu.js";
import { lazy } from "./lazy.js";

const Rename = lazy(() => import("./rename.js").then((module) => module.Rename));

export function Title() {
  const renaming = useSignal("");
  const session = open.value;
  const name = session ? nameOf(session) : "";
  if (session && renaming.value === session.session_id) {
    return html`<div class="title"><${Rename} session=${session} done=${() => (renaming.value = "")} /></div>`;
  }
  return html`
    <div class="title">
      <h1 dir="auto" title=${name} data-testid="conversation-name">${name || strings.sidebar.fresh}</h1>
      ${session && html`<${Menu} session=${session} rename=${() => (renaming.value = session.session_id)} />`}
    </div>
  `;
}
