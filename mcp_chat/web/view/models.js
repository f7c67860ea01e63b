/** Which model answers here; pressed, it leads to the others. */
import { modelName } from "../connection.js";
import { sessionId } from "../conversation.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { loadModel } from "../models.js";
import { report } from "../problem.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { computed, effect, untracked, useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";

const Picker = lazy(() => import("./modelpicker.js").then((module) => module.Picker), "style/dialog.css", "style/servers.css");

const here = computed(() => sessionId());

export function ModelButton() {
  const box = useRef(null);
  const open = useSignal(false);
  useEffect(() => effect(() => void (here.value, untracked(() => loadModel().catch(report)))), []);
  const show = () => {
    open.value = true;
    box.current.showModal();
  };
  const label = strings.models.choose(visible(modelName.value));
  return html`
    <button type="button" class="button small quiet model-button" aria-label=${label} title=${label} data-testid="model-button" onClick=${show}>
      <span dir="auto">${visible(modelName.value)}</span><${Icon} name="chevron" />
    </button>
    <dialog class="card manner models" ref=${box} aria-label=${strings.models.title} onClose=${() => (open.value = false)}>
      ${open.value && html`<${Picker} close=${() => box.current.close()} />`}
    </dialog>
  `;
}
