/** What a call was given and what came back, each shown as what it is. */
import { pretty, visible } from "../format.js";
import { html } from "../html.js";
import { outcomeOf, rawOf } from "../outcome.js";
import { report } from "../problem.js";
import { sheet } from "../sheet.js";
import { strings } from "../strings.js";
import { getText } from "../transfer.js";
import { useMemo } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { CopyButton } from "./copy.js";
import { cell, Grid } from "./grid.js";
import { LongText } from "./longtext.js";
import { Tree } from "./tree.js";

/** @param {{part: import("../turn.js").ToolPart}} props */
export const Detail = ({ part }) => html`
  <div class="detail">
    <${Section} title=${strings.tool.args} copied=${() => pretty(part.args)}>
      ${hasArgs(part.args) ? html`<${Tree} value=${part.args} testid="tool-args" />` : html`<p class="aside" data-testid="tool-args">${strings.tool.noArgs}</p>`}
    <//>
    ${part.state !== "running" && html`<${Outcome} part=${part} />`}
    <${Raw} part=${part} />
  </div>
`;

const hasArgs = (args) => (args && typeof args === "object" ? Object.keys(args).length > 0 : Boolean(args));

/** @param {{title: string, copied: () => string}} props */
const Section = ({ title, copied, children }) => html`
  <section>
    <h3>${title}<${CopyButton} text=${copied} label="${strings.tool.copy}: ${title}" testid="copy-section" /></h3>
    ${children}
  </section>
`;

/** What came back. A text that was shortened for the model is fetched whole when it is asked for. */
function Outcome({ part }) {
  const whole = useSignal(null);
  const found = useMemo(() => outcomeOf(whole.value === null ? part : { result: whole.value }), [part.result, part.structured, whole.value]);
  const { text, value, table, resources, whole: file } = found;
  const fetchWhole = () => getText(`llmchat/uploads/${encodeURIComponent(file.upload_id)}`).then((read) => (whole.value = read), report);
  const copied = () => (table ? sheet([table.columns, ...table.rows.map((row) => row.map(cell))]) : whole.value ?? pretty(part.result));
  const empty = !text && value === undefined && !resources.length && !part.files?.length;
  return html`
    <${Section} title=${part.state === "error" ? strings.tool.failure : strings.tool.result} copied=${copied}>
      <div class="result" data-testid="tool-result">
        ${empty && html`<p class="aside">${strings.tool.noResult}</p>`}
        ${text && html`<${LongText} text=${text} more=${file ? fetchWhole : null} />`}
        ${table ? html`<${Grid} table=${table} />` : value !== undefined && html`<${Tree} value=${value} testid="tool-tree" />`}
        ${resources.map((resource) => html`<${Resource} key=${resource.uri} resource=${resource} />`)}
      </div>
    <//>
  `;
}

/** A resource that the tool names; its address is shown whole, and leads to the web only. */
function Resource({ resource: { name, uri } }) {
  const isWeb = /^https?:\/\//i.test(uri) && URL.canParse(uri);
  const address = visible(uri);
  return html`
    <p class="resource" data-testid="tool-resource">
      <span dir="auto">${visible(name)}</span>
      ${isWeb ? html`<a href=${new URL(uri).href} target="_blank" rel="noopener noreferrer nofollow" dir="ltr">${address}</a>` : html`<code dir="ltr">${address}</code>`}
    </p>
  `;
}

/** The call as the chat's own server told of it. */
function Raw({ part }) {
  const open = useSignal(false);
  const text = () => JSON.stringify(rawOf(part), null, 2);
  return html`
    <details class="raw" data-testid="tool-raw" onToggle=${(event) => (open.value = event.currentTarget.open)}>
      <summary>${strings.tool.raw}</summary>
      ${open.value && html`<${Section} title=${strings.tool.messages} copied=${text}><${LongText} text=${text()} testid="tool-messages" /><//>`}
    </details>
  `;
}

