/** Files that a tool's result has: pictures and sounds are shown, everything else can be fetched. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { addressOf } from "../transfer.js";
import { useEffect } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";

/** @param {{files: {upload_id: string, name: string, media_type: string}[]}} props */
export const Files = ({ files }) => html`
  <div class="files" data-testid="files">${files.map((file) => html`<${File} key=${file.upload_id} file=${file} />`)}</div>
`;

function File({ file: { upload_id: id, name, media_type: type } }) {
  const url = useSignal("");
  useEffect(() => void addressOf(`llmchat/uploads/${encodeURIComponent(id)}`).then((found) => (url.value = found), () => {}), [id]);
  const label = visible(name || strings.files.unnamed);
  if (!url.value) return html`<span class="aside">${label}</span>`;
  if (/^image\/(png|jpeg|gif|webp)$/.test(type)) return html`<img src=${url.value} alt=${label} loading="lazy" />`;
  if (type?.startsWith("audio/")) return html`<audio controls preload="none" src=${url.value} aria-label=${label} />`;
  return html`<a href=${url.value} download=${label} rel="noopener">${label}</a>`;
}
