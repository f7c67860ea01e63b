/** Asks before a conversation is deleted. */
import { erase } from "../editing.js";
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { announcement } from "../session.js";
import { doomed, nameOf } from "../sessions.js";
import { strings } from "../strings.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";

/** @param {{session: import("../sessions.js").Session}} props */
export function Erase({ session }) {
  const [box, busy] = [useRef(null), useSignal(false)];
  useLayoutEffect(() => {
    box.current.showModal();
    return () => (doomed.value = null); // also when its user is gone
  }, []);
  const close = () => box.current?.close();
  const carryOut = async () => {
    busy.value = true;
    dismiss();
    await erase(session).then(() => (announcement.value = strings.sidebar.erased), report);
    close();
  };
  return html`
    <dialog class="card confirm" ref=${box} aria-labelledby="erase-title" aria-describedby="erase-text" data-testid="erase"
      onClose=${() => (doomed.value = null)}>
      <h2 id="erase-title">${strings.sidebar.eraseTitle}</h2>
      <p id="erase-text" dir="auto">${strings.sidebar.eraseText(nameOf(session))}</p>
      <p class="row">
        <button type="button" class="button small" autofocus onClick=${close}>${strings.question.cancel}</button>
        <button type="button" class="button small danger" data-testid="erase-yes" disabled=${busy.value} onClick=${carryOut}>${strings.sidebar.erase}</button>
      </p>
    </dialog>
  `;
}
