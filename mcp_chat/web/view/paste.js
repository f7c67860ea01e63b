/** What is pasted: files go with the message, and long texts can become one. */
import { toComposer } from "../focus.js";
import { html } from "../html.js";
import { draft, setDraft } from "../session.js";
import { strings } from "../strings.js";
import { take } from "../uploads.js";
import { useSignal } from "../vendor/signals.js";

const LONG = 10_000; // characters

/** @returns {{onPaste: (event: ClipboardEvent) => void, long: {value: string}}} `long`: the text that could be a file */
export function usePaste() {
  const long = useSignal("");
  const onPaste = (event) => {
    const text = event.clipboardData.getData("text/plain");
    if (text.length > LONG) long.value = text.replaceAll("\r\n", "\n");
    if (text || !event.clipboardData.files.length) return; // tables come as a text and as a picture of it
    event.preventDefault();
    take(event.clipboardData.files);
  };
  return { onPaste, long };
}

/** @param {{long: {value: string}}} props */
export function LongText({ long }) {
  if (!long.value || !draft.value.includes(long.value)) return null;
  const keep = () => ((long.value = ""), toComposer());
  const asFile = () => {
    take([new File([long.value], strings.enclosed.pastedName, { type: "text/plain" })]);
    setDraft(draft.value.replace(long.value, () => ""));
    keep();
  };
  return html`
    <div class="long-text" role="status" data-testid="long-text">
      <span>${strings.enclosed.longText(long.value.length)}</span>
      <button type="button" class="button small primary" data-testid="paste-as-file" onClick=${asFile}>${strings.enclosed.asFile}</button>
      <button type="button" class="button small" onClick=${keep}>${strings.enclosed.asText}</button>
    </div>
  `;
}
