/** What went wrong, and what to do about it. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { dismiss, problem } from "../problem.js";
import { strings } from "../strings.js";
import { Icon } from "./icon.js";

export function Banner() {
  if (!problem.value) return null;
  const { text, action } = problem.value;
  return html`
    <div class="banner" role="alert" data-testid="error">
      <${Icon} name="alert" />
      <p dir="auto">${visible(text)}</p>
      ${action && html`<button type="button" class="button small" onClick=${action.run}>${action.label}</button>`}
      <button type="button" class="icon-button" aria-label=${strings.dismiss} title=${strings.dismiss} onClick=${dismiss}>
        <${Icon} name="close" />
      </button>
    </div>
  `;
}
