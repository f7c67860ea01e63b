/** One tool call: which tool of which server, what it was given, how far it is, what came back. */
import { brief, duration, oneLine, pretty, toolName, visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { CopyButton } from "./copy.js";
import { Icon } from "./icon.js";

const SHOWN_CHARACTERS = 20_000;

/** @param {{part: import("../turn.js").ToolPart}} props */
export function ToolCard({ part }) {
  return html`
    <details class="tool" data-testid="tool-card" data-state=${part.state} data-tool=${part.tool}>
      <${Summary} part=${part} />
      <div class="detail">
        <${Section} title=${strings.tool.args} value=${argsText(part.args)} testid="tool-args" />
        ${part.state !== "running" && html`<${Result} part=${part} />`}
      </div>
    </details>
    ${part.state === "running" && html`<${Progress} progress=${part.progress} />`}
  `;
}

function Summary({ part }) {
  const { server, name } = toolName(part.tool);
  const { result, state } = part;
  return html`
    <summary>
      <span class="state" role="img" aria-label=${strings.tool[state]}>
        ${state === "running" ? html`<span class="spinner" />` : html`<${Icon} name=${state === "done" ? "check" : "close"} />`}
      </span>
      <code class="name">${visible(name)}</code>
      ${server && html`<span class="chip">${visible(server)}</span>`}
      <span class="gist" dir="auto">${visible(brief(part.args))}</span>
      ${part.elapsed >= 0 && html`<span class="time" data-testid="tool-duration">${duration(part.elapsed)}</span>`}
      <${Icon} name="chevron" />
      ${state !== "running" && html`<span class="outcome" dir="auto">${visible(oneLine(asText(result))) || strings.tool.noResult}</span>`}
    </summary>
  `;
}

function Result({ part }) {
  const title = part.state === "error" ? strings.tool.failure : strings.tool.result;
  return html`<${Section} title=${title} value=${pretty(part.result) || strings.tool.noResult} testid="tool-result" />`;
}

/** @param {{title: string, value: string, testid: string}} props the value is text and stays text */
function Section({ title, value, testid }) {
  const hidden = value.length - SHOWN_CHARACTERS;
  return html`
    <section>
      <h3>${title}<${CopyButton} text=${value} label="${strings.tool.copy}: ${title}" /></h3>
      <pre dir="auto" tabindex="0" data-testid=${testid}>${visible(value.slice(0, SHOWN_CHARACTERS))}</pre>
      ${hidden > 0 && html`<p class="aside">${strings.tool.clipped(hidden)}</p>`}
    </section>
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

const asText = (value) => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));

const argsText = (args) => (args && Object.keys(args).length ? pretty(args) : strings.tool.noArgs);
