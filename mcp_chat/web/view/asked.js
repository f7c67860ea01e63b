/** What waits for the user at the end of the conversation, and the way there. */
import { waiting } from "../announcements.js";
import { approvals } from "../approvals.js";
import { focus } from "../focus.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useEffect } from "../vendor/preact-hooks.js";
import { lazy } from "./lazy.js";

const Approvals = lazy(() => import("./approvals.js").then((module) => module.Approvals));
const Questions = lazy(() => import("./questions.js").then((module) => module.Questions));

export const Asked = () => (waiting.value > 0 && html`<div class="questions" data-testid="asked"><${Questions} /><${Approvals} /></div>`);

/** To what waits, wherever the user is; nothing is decided by that. */
const toAsked = () => focus(approvals.value.length ? ".approval .args, .approval input" : ".question input, .question select, .question button");

/** Shown while what waits is out of sight. */
export const AskedButton = () => html`
  <button type="button" class="button small primary" data-testid="to-asked" aria-keyshortcuts="Alt+Shift+A" onClick=${toAsked}>
    ${strings.thread.waiting(waiting.value)}
  </button>
`;

/** Alt+Shift+A brings the focus to what waits. */
export function useShortcut() {
  useEffect(() => {
    const onKey = (event) => event.altKey && event.shiftKey && event.code === "KeyA" && waiting.value && (event.preventDefault(), toAsked());
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}
