/** Where the user writes. */
import { connection, demo } from "../connection.js";
import { html } from "../html.js";
import { draft, send, setDraft, stop, stopping, working } from "../session.js";
import { strings } from "../strings.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { Icon } from "./icon.js";

export function Composer() {
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  useLayoutEffect(() => fit(field.current), [draft.value]);
  const submit = (event) => {
    event.preventDefault();
    field.current.focus(); // for who pressed the button
    send(draft.value);
  };
  return html`
    <form class="composer" onSubmit=${submit}>
      <div class="box">
        <textarea ref=${field} rows="1" dir="auto" value=${draft.value} data-testid="composer" enterkeyhint="send"
          aria-label=${strings.composer.label} aria-describedby="composer-hint"
          placeholder=${strings.composer.placeholder(connection.value.server)}
          onInput=${(event) => setDraft(event.target.value)} onKeyDown=${(event) => onKey(event, submit)} />
        ${working.value ? html`<${StopButton} key="stop" />` : html`<${SendButton} key="send" />`}
      </div>
      <${Hint} />
    </form>
  `;
}

/** Enter sends, but not the Enter that ends a composition of an input method. */
function onKey(event, submit) {
  if (event.key === "Escape" && working.value) stop();
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
}

/** As high as its text; the style sheet sets the limit. @param {HTMLTextAreaElement} area */
function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

const SendButton = () => html`
  <button class="round" data-testid="send" disabled=${!draft.value.trim()}
    aria-label=${strings.composer.send} title=${strings.composer.send}>
    <${Icon} name="arrowUp" />
  </button>
`;

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
      ${demo.value ? html`<span data-testid="demo-notice">${strings.demoShort}</span>` : html`<span>${strings.caution}</span>`}
      <span class="wide">${strings.composer.keys}</span>
    </p>
  `;
}
