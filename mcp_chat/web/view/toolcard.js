/** One tool call: which tool of which server, what it was given, how far it is, what came back. */
import { brief, distinct, duration, oneLine, toolName, visible } from "../format.js";
import { html } from "../html.js";
import { asText, tellsOf } from "../outcome.js";
import { apps } from "../servers.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { Files } from "./files.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";

const AppView = lazy(() => import("./appview.js").then((module) => module.AppView));
const Detail = lazy(() => import("./outcome.js").then((module) => module.Detail));

/** More than that is read when the card is opened. */
const GLANCED_AT = 2000;

/** @param {{part: import("../turn.js").ToolPart}} props */
export function ToolCard({ part }) {
  const open = useSignal(false);
  const toggle = (event) => event.target === event.currentTarget && (open.value = event.currentTarget.open);
  return html`
    <details class="tool" data-testid="tool-card" data-state=${part.state} data-tool=${part.tool} onToggle=${toggle}>
      <${Summary} part=${part} />
      ${open.value && html`<${Detail} part=${part} />`}
    </details>
    ${part.state === "running" && html`<${Progress} progress=${part.progress} />`}
    ${part.files?.length > 0 && html`<${Files} files=${part.files} />`}
    ${part.state === "done" && apps.value.has(part.tool) && html`<${AppView} part=${part} />`}
  `;
}

function Summary({ part }) {
  const { server, name } = toolName(part.tool);
  const { state } = part;
  return html`
    <summary>
      <span class="state" role="img" aria-label=${strings.tool[state]}>
        ${state === "running" ? html`<span class="spinner" />` : html`<${Icon} name=${state === "done" ? "check" : "close"} />`}
      </span>
      <code class="name">${distinct(name)}</code>
      ${server && html`<span class="chip">${distinct(server)}</span>`}
      <span class="gist" dir="auto">${visible(brief(part.args))}</span>
      ${part.elapsed >= 0 && html`<span class="time" data-testid="tool-duration">${duration(part.elapsed)}</span>`}
      <${Icon} name="chevron" />
      ${state !== "running" && html`<span class="outcome" dir="auto" data-testid="tool-outcome">${visible(gist(part)) || (part.files?.length ? "" : strings.tool.noResult)}</span>`}
    </summary>
  `;
}

/** @param {{progress?: {progress: number, total?: number, message?: string}}} props */
function Progress({ progress }) {
  if (!progress) return null;
  const { progress: done, total, message } = progress;
  const label = [visible(message ?? ""), strings.tool.progress(done, total)].filter(Boolean).join(" · ");
  return html`
    <div class="progress" data-testid="tool-progress">
      <progress max=${total ?? 1} value=${total ? done : undefined} aria-label=${label} /><span dir="auto">${label}</span>
    </div>
  `;
}

/** The first words of what came back, without the lines that tell the model of the files: they are there to be seen. */
function gist({ result, files = [] }) {
  const lines = asText(result).slice(0, GLANCED_AT).split("\n");
  return oneLine(lines.filter((line) => !tellsOf(line, files)).join("\n"));
}
