/** A JSON value that can be opened and closed; what is closed costs nothing. */
import { escaped } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { LongText } from "./longtext.js";

const MOST = 100;
const LONGEST = 200;
const OPEN_UNTIL = 1;

/** @param {{value: unknown, testid?: string}} props */
export const Tree = ({ value, testid }) => html`
  <div class="tree" dir="ltr" tabindex="0" data-testid=${testid}>
    ${isBranch(value) ? html`<${Entries} value=${value} depth=${0} />` : html`<${Leaf} value=${value} />`}
  </div>
`;

/** @param {{value: object, depth: number}} props */
function Entries({ value, depth }) {
  const most = useSignal(MOST);
  const keys = Object.keys(value);
  const hidden = keys.length - most.value;
  const more = () => (most.value += 10 * MOST);
  return html`
    <ul>
      ${keys.slice(0, most.value).map((key) => html`<${Entry} key=${key} name=${Array.isArray(value) ? null : key} value=${value[key]} depth=${depth} />`)}
      ${hidden > 0 && html`<li><button type="button" class="button small quiet" onClick=${more}>${strings.tool.more(hidden)}</button></li>`}
    </ul>
  `;
}

function Entry({ name, value, depth }) {
  const key = name === null ? "" : html`<span class="hl-attr">${escaped(JSON.stringify(name))}</span>: `;
  if (!isBranch(value)) return html`<li>${key}<${Leaf} value=${value} /></li>`;
  return html`<li><${Branch} label=${key} value=${value} depth=${depth} /></li>`;
}

function Branch({ label, value, depth }) {
  const open = useSignal(depth < OPEN_UNTIL);
  const count = Object.keys(value).length;
  const size = Array.isArray(value) ? `[${count}]` : `{${count}}`;
  return html`
    <details open=${open.value} onToggle=${(event) => event.target === event.currentTarget && (open.value = event.currentTarget.open)}>
      <summary>${label}<span class="size">${size}</span></summary>
      ${open.value && html`<${Entries} value=${value} depth=${depth + 1} />`}
    </details>
  `;
}

function Leaf({ value }) {
  const whole = useSignal(false);
  if (typeof value !== "string") return html`<span class=${typeof value === "number" ? "hl-number" : "hl-literal"}>${String(value)}</span>`;
  if (whole.value) return html`<${LongText} text=${value} />`;
  const hidden = value.length - LONGEST;
  const shown = escaped(JSON.stringify(hidden > 0 ? value.slice(0, LONGEST) : value));
  return html`
    <span class="hl-string" dir="auto">${shown}</span>
    ${hidden > 0 && html`<button type="button" class="button small quiet" onClick=${() => (whole.value = true)}>${strings.tool.showAll(hidden)}</button>`}
  `;
}

/** @param {unknown} value */
const isBranch = (value) => value !== null && typeof value === "object" && Object.keys(value).length > 0;
