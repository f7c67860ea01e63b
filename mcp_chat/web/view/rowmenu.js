/** The button under which there is what can be done with a conversation. */
import { html } from "../html.js";
import { nameOf } from "../sessions.js";
import { strings } from "../strings.js";
import { useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";

const Items = lazy(() => import("./rowitems.js").then((module) => module.Items), "style/menu.css");

/** @param {{session: import("../sessions.js").Session, rename: () => void, tabindex?: number}} props */
export function Menu({ session, rename, tabindex = 0 }) {
  const [button, box, wanted, isShown] = [useRef(null), useRef(null), useSignal(false), useSignal(false)];
  const label = strings.sidebar.more(nameOf(session));
  const toggle = () => {
    if (box.current) return box.current.togglePopover();
    wanted.value = true;
    return Items.fetch(); // they show themselves, as soon as they are there
  };
  return html`
    <button type="button" class="icon-button small more" ref=${button} tabindex=${tabindex} data-testid="conversation-menu"
      aria-label=${label} title=${label} aria-haspopup="menu" aria-expanded=${isShown.value} onClick=${toggle}>
      <${Icon} name="dots" />
    </button>
    ${wanted.value && html`<${Items} box=${box} button=${button} isShown=${isShown} label=${label} session=${session} rename=${rename} />`}
  `;
}
