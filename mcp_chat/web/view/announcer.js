/** What is said to those who do not see the page. */
import { announce, said, urgent } from "../announcements.js";
import { html } from "../html.js";
import { useEffect } from "../vendor/preact-hooks.js";

export function Announcer() {
  useEffect(announce, []);
  return html`
    <div class="visually-hidden" role="status" data-testid="said">${said.value}</div>
    <div class="visually-hidden" role="alert" data-testid="urgent">${urgent.value}</div>
  `;
}
