/** Where the user writes, and chooses what goes with it: `/` for prompts, `@` for resources, files by any way. */
import { connection, demo, toolless } from "../connection.js";
import { opening } from "../conversation.js";
import { arriving, enclosed, enough, here, keepEnclosed, kept, putBack, show, some } from "../enclosed.js";
import { distinct } from "../format.js";
import { html } from "../html.js";
import { incomplete, prompt } from "../prompts.js";
import { attachTemplate, template, unfilled } from "../resources.js";
import { offering } from "../servers.js";
import { draft, send, setDraft, stop, stopping, working } from "../session.js";
import { strings } from "../strings.js";
import { accepted, files, take } from "../uploads.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { effect, signal, untracked, useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";
import { ModelButton } from "./models.js";
import { LongText, usePaste } from "./paste.js";
import { described, LIST, useOffers } from "./signs.js";

const Enclosed = lazy(() => import("./attachments.js").then((module) => module.Enclosed), "style/enclosed.css", "style/menu.css", "style/servers.css");

export function Composer() {
  const [field, form] = [useRef(null), useRef(null)];
  const offers = useOffers(field);
  const { onPaste, long } = usePaste();
  const { server } = connection.value;
  useLayoutEffect(() => field.current.focus(), []);
  useEffect(keepEnclosed, []);
  useEffect(sendOnceThere, []);
  useEffect(() => void (offers.count && Enclosed.fetch()), [offers.count > 0]); // to be there for what is chosen
  useLayoutEffect(() => fit(field.current), [draft.value]);
  const submit = (event) => {
    event.preventDefault();
    field.current.focus(); // for who pressed the button
    offers.forget();
    say();
  };
  const onInput = ({ target }) => {
    waits.value = null; // it says something else now
    setDraft(target.value);
    offers.look();
  };
  const onKeyDown = (event) => {
    if (offers.onKey(event) || event.isComposing) return;
    onKey(event, form.current);
  };
  return html`
    <form class="composer" ref=${form} onSubmit=${submit} onPaste=${onPaste}>
      ${offers.view}
      <${DropZone} />
      <${LongText} long=${long} />
      <div class="box">
        ${some.value && html`<${Enclosed} />`}
        <textarea ref=${field} rows="1" dir="auto" value=${draft.value} data-testid="composer" enterkeyhint="send"
          aria-label=${strings.composer.label} aria-describedby="composer-hint" ...${described(LIST, offers.count, offers.place)}
          placeholder=${server ? strings.composer.placeholder(distinct(server)) : strings.composer.label}
          onInput=${onInput} onSelect=${offers.look} onKeyDown=${onKeyDown} />
        <div class="bar">
          <${AttachButton} />
          <${ModelButton} />
          ${working.value && html`<${StopButton} key="stop" />`}
          ${(!working.value || draft.value.trim() || enough.value || arriving.value) && html`<${SendButton} key="send" />`}
        </div>
      </div>
      <${Hint} />
    </form>
  `;
}

/** Where a message was sent before its conversation or all of its files were there, and these files. */
const waits = signal(null);

/** Send what waits once all is there; not if a file fails or is taken away, nor in another conversation. @returns {() => void} an end to that */
const sendOnceThere = () =>
  effect(() => {
    if (!waits.value) return;
    const { where, coming } = waits.value;
    const stays = where === here().visit && coming.every((key) => files.value.some((file) => file.key === key && file.state !== "failed"));
    if (stays && (opening.value || arriving.value)) return;
    waits.value = null;
    if (stays) untracked(say);
  });

/** Not sent as it stands: it waits. */
const wait = () => (waits.value = { where: here().visit, coming: files.value.filter(({ state }) => state === "sending").map(({ key }) => key) });

/** Send what is written with all that goes with it; if it is not taken, that is back in its place. */
async function say() {
  if (unfilled() || (prompt.value && incomplete(prompt.value))) return; // the fields say so themselves, once they are there
  if (template.value && !attachTemplate()) return;
  if (!(draft.value.trim() || enough.value || arriving.value)) return;
  if (opening.value || arriving.value) return void wait();
  const [more, before, where] = [enclosed(), kept(), here()];
  show();
  if (!draft.value.trim()) setDraft("");
  const taken = await send(draft.value, more);
  if (!taken) putBack(before, where);
}

/** Enter sends, but not the Enter that ends a composition of an input method. @param {KeyboardEvent} event @param {HTMLFormElement} form */
function onKey(event, form) {
  if (event.key === "Escape" && waits.value) waits.value = null;
  else if (event.key === "Escape" && working.value) stop();
  if (event.key === "ArrowUp" && !draft.value && editLast()) event.preventDefault();
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  form.requestSubmit();
}

/** Edit the question that was asked last, if it can be. @returns {boolean} */
function editLast() {
  const last = [...document.querySelectorAll(".message.user button[data-testid=edit]:not(:disabled)")].at(-1);
  last?.click();
  return Boolean(last);
}

/** As high as its text; the style sheet sets the limit. @param {HTMLTextAreaElement} area */
function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function AttachButton() {
  const picker = useRef(null);
  const onChange = ({ target }) => {
    take(target.files);
    target.value = ""; // so that the same file can be chosen again
  };
  return html`
    <button type="button" class="icon-button" aria-label=${strings.enclosed.attach} title=${strings.enclosed.attach} data-testid="attach"
      onClick=${() => picker.current.click()}><${Icon} name="clip" /></button>
    <input type="file" ref=${picker} multiple hidden accept=${accepted} data-testid="file-input" onChange=${onChange} />
  `;
}

/** The whole page takes files that are dropped on it: a browser would leave the chat to show them. */
function DropZone() {
  const over = useSignal(false);
  useEffect(() => {
    const has = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
    const onOver = (event) => has(event) && (event.preventDefault(), (over.value = true));
    const onLeave = ({ relatedTarget }) => relatedTarget || (over.value = false);
    const onDrop = (event) => {
      if (!has(event)) return;
      event.preventDefault();
      over.value = false;
      take(event.dataTransfer.files);
    };
    const heard = { dragover: onOver, dragleave: onLeave, drop: onDrop };
    for (const [name, handler] of Object.entries(heard)) document.addEventListener(name, handler);
    return () => Object.entries(heard).forEach(([name, handler]) => document.removeEventListener(name, handler));
  }, []);
  return over.value && html`<p class="drop" data-testid="drop-here"><${Icon} name="clip" />${strings.enclosed.dropHere}</p>`;
}

function SendButton() {
  const label = working.value ? strings.composer.steer : strings.composer.send;
  const off = waits.value || !(draft.value.trim() || enough.value || arriving.value);
  return html`
    <button class="round" data-testid="send" disabled=${Boolean(off)} aria-label=${label} title=${label}>
      <${Icon} name="arrowUp" />
    </button>
  `;
}

function StopButton() {
  const label = stopping.value ? strings.composer.stopping : strings.composer.stop;
  return html`
    <button type="button" class="round" data-testid="stop" disabled=${stopping.value}
      aria-label=${label} title=${label} onClick=${stop}>
      <${Icon} name="stop" />
    </button>
  `;
}

function Hint() {
  return html`
    <p class="hint" id="composer-hint">
      ${demo.value ? html`<span data-testid="demo-notice">${strings.demoShort}</span>` : html`<span data-testid="caution">${toolless.value ? strings.toolless : strings.caution}</span>`}
      ${waits.value && html`<span role="status" data-testid="waits">${strings.enclosed.waits}</span>`}
      <span class="wide">${offering("prompts").length || offering("resources").length ? strings.enclosed.keys : strings.composer.keys}</span>
    </p>
  `;
}
