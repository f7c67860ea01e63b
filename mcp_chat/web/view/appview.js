/** An app that shows a tool's result: on another origin, in a frame that has nothing of the chat. */
import { callFor, openView, readFor } from "../apps.js";
import { connectApp, MOST_HEIGHT } from "../bridge.js";
import { distinct, toolName } from "../format.js";
import { html } from "../html.js";
import { report } from "../problem.js";
import { draft, setDraft } from "../session.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Address } from "./address.js";

const LEAST_HEIGHT = 48;

/** Apps that open by themselves at a time: the others wait for a click. */
const MOST_OPEN = 4;
let opened = 0;

/** @param {{part: import("../turn.js").ToolPart}} props */
export function AppView({ part }) {
  const view = useSignal(null);
  const open = useSignal(part.start !== undefined && opened < MOST_OPEN); // of an earlier conversation: on demand
  const stopped = useSignal(false);
  useEffect(() => {
    if (open.value && !view.value) openView(part.tool).then((found) => (view.value = found), (error) => ((open.value = false), report(error)));
  }, [open.value]);
  const { server } = toolName(part.tool);
  const close = () => (open.value = false);
  const stop = () => ((stopped.value = true), close());
  return html`
    <section class="app" aria-label=${strings.app.title(distinct(server))} data-testid="app">
      <h3>
        <span dir="auto">${strings.app.title(distinct(server))}</span>
        <button type="button" class="button small quiet" data-testid="app-toggle" onClick=${() => (open.value = !open.value)}>
          ${open.value ? strings.app.close : strings.app.open}
        </button>
      </h3>
      ${stopped.value && html`<p class="aside" data-testid="app-stopped">${strings.app.stopped}</p>`}
      ${open.value && view.value && html`<${Frame} part=${part} view=${view.value} stop=${stop} />`}
    </section>
  `;
}

/** @param {{part: object, view: import("../apps.js").View, stop: () => void}} props */
function Frame({ part, view, stop }) {
  const frame = useRef(null);
  const height = useSignal(160);
  const link = useSignal(null);
  useEffect(() => (opened++, () => opened--), []);
  useEffect(() => {
    const app = { html: view.html, input: part.args ?? {}, result: resultOf(part) };
    return connectApp(frame.current, new URL(view.src).origin, app, {
      call: (name, args) => callFor(part.tool, name, args),
      read: (uri) => readFor(part.tool, uri),
      link: (url) => ask(link, url),
      message: (text) => setDraft([draft.value, text].filter(Boolean).join("\n")),
      resize: (wanted) => (height.value = Math.min(MOST_HEIGHT, Math.max(LEAST_HEIGHT, Math.ceil(wanted)))),
      flooded: stop,
    });
  }, []);
  return html`
    <iframe ref=${frame} class=${view.border === false ? "" : "bordered"} title=${strings.app.frame} data-testid="app-frame"
      sandbox="allow-scripts allow-same-origin allow-forms" allow="" referrerpolicy="no-referrer"
      style=${{ height: `${height}px` }} src=${view.src} />
    ${link.value && html`<${Address} url=${link.value.url} why=${strings.app.link} done=${link.value.done} />`}
  `;
}

/** Ask the user about one address at a time; another one meanwhile is refused. @returns {Promise<boolean>} */
function ask(link, url) {
  if (link.value) return Promise.resolve(false);
  return new Promise((decide) => {
    link.value = { url, done: (opened) => ((link.value = null), decide(opened)) };
  });
}

/** The result as the protocol has it. */
function resultOf({ result, structured, state }) {
  const text = typeof result === "string" ? result : JSON.stringify(result ?? "");
  return { content: [{ type: "text", text }], ...(structured && { structuredContent: structured }), isError: state === "error" };
}
