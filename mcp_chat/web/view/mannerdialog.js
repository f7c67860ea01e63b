/** A small dialog: how this conversation is answered, and what is left for its user. */
import { sessionId, visit } from "../conversation.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { loadManner, saveManner } from "../manner.js";
import { during } from "../problem.js";
import { strings } from "../strings.js";
import { loadUsage } from "../usage.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Fields, Used } from "./mannerfields.js";
import { Notice } from "./notice.js";

/** @param {{done: (wasOpen: boolean) => void}} props `done`: it is closed, or there is nothing to show */
export function Dialog({ done }) {
  const box = useRef(null);
  const [busy, manner, usage, fault] = [useSignal(false), useSignal(null), useSignal(null), useSignal("")];
  const load = async () => {
    const here = visit();
    await here.opened;
    if (here.gone.aborted) return;
    const session = sessionId();
    const [found, used] = await Promise.all([loadManner(session).catch(unkept), loadUsage().catch(() => null)]);
    if (here.gone.aborted || !box.current) return;
    [manner.value, usage.value] = [{ ...found, session }, used];
    box.current.showModal();
  };
  useEffect(() => void during(busy, load).then(() => manner.value || done(false)), []);
  const save = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const saving = async () => {
      await saveManner(manner.value.session, form.get("prompt"), form.get("temperature"), form.get("model"));
      box.current.close();
    };
    fault.value = "";
    during(busy, () => saving().catch((error) => (fault.value = error.message))); // the banner is behind the dialog
  };
  return html`
    <dialog class="card manner" ref=${box} aria-label=${strings.manner.title} onClose=${() => done(true)}>
      ${manner.value && html`
        <form onSubmit=${save}>
          <h2>${strings.manner.title}</h2>
          ${manner.value.unkept ? html`<${Notice} text=${strings.manner.unkept} testid="manner-unkept" />` : html`<${Fields} manner=${manner.value} />`}
          ${usage.value && html`<${Used} usage=${usage.value} />`}
          ${fault.value && html`<p class="fault" role="alert" data-testid="manner-fault">${visible(fault.value)}</p>`}
          <p class="row">
            <button type="button" class="button small" onClick=${() => box.current.close()}>${strings.question.cancel}</button>
            ${!manner.value.unkept && html`<button class="button small primary" data-testid="manner-save" disabled=${busy.value}>${strings.manner.save}</button>`}
          </p>
        </form>`}
    </dialog>
  `;
}

/** Without a database a conversation has no settings of its own. */
function unkept(error) {
  if (error.status !== 501) throw error;
  return { unkept: true };
}
