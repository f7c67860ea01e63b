/** A conversation's name as a text field: Enter or leaving it keeps the new name, Escape the old one. */
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { rename } from "../editing.js";
import { strings } from "../strings.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";

const LONGEST_NAME = 200;

/** @param {{session: import("../sessions.js").Session, done: () => void}} props */
export function Rename({ session: { session_id: id, name }, done }) {
  const field = useRef(null);
  const over = useRef(false);
  useLayoutEffect(() => field.current.select(), []);
  const end = (text) => {
    if (over.current) return; // the field is left once more when it goes
    over.current = true;
    const chosen = text.trim();
    dismiss();
    if (chosen && chosen !== name) rename(id, chosen).catch(report);
    done();
  };
  const onKey = (event) => {
    if (event.key !== "Escape" && (event.key !== "Enter" || event.isComposing)) return;
    event.preventDefault();
    event.stopPropagation();
    end(event.key === "Enter" ? event.target.value : name);
  };
  return html`
    <input class="rename" ref=${field} value=${name} maxlength=${LONGEST_NAME} dir="auto" autocomplete="off" data-testid="rename-field"
      aria-label=${strings.sidebar.renameLabel} onKeyDown=${onKey} onBlur=${(event) => end(event.target.value)} />
  `;
}
