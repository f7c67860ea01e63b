/** A button that copies a text and says so. */
import { copy } from "../clipboard.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";

const SHOWN_MS = 1600;
const ICONS = { copied: "check", copyFailed: "alert" };

/** @param {{text: string | (() => string), label: string, testid?: string}} props */
export function CopyButton({ text, label, testid }) {
  const outcome = useSignal("");
  const press = async () => {
    outcome.value = (await copy(typeof text === "function" ? text() : text)) ? "copied" : "copyFailed";
    setTimeout(() => (outcome.value = ""), SHOWN_MS);
  };
  const name = outcome.value ? strings.message[outcome.value] : label;
  return html`
    <button type="button" class="icon-button small" aria-label=${name} title=${name} onClick=${press} data-testid=${testid}>
      <${Icon} name=${ICONS[outcome.value] ?? "copy"} />
    </button>
  `;
}
