/** The button that leads to how this conversation is answered. */
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";

const Dialog = lazy(() => import("./mannerdialog.js").then((module) => module.Dialog), "style/dialog.css");

export function Manner() {
  const [button, wanted] = [useRef(null), useSignal(false)];
  const open = () => {
    wanted.value = true;
    Dialog.fetch(); // once more, if it was lost
  };
  const done = (wasOpen) => {
    wanted.value = false;
    if (wasOpen) button.current?.focus();
  };
  return html`
    <button ref=${button} type="button" class="button small quiet" data-testid="manner" aria-busy=${wanted.value}
      aria-label=${strings.manner.title} title=${strings.manner.title} onClick=${open}><${Icon} name="sliders" /></button>
    ${wanted.value && html`<${Dialog} done=${done} />`}
  `;
}
