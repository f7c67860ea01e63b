/** A list of flat objects as a table. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";

const MOST = 50;
const LONGEST = 300;

/** @param {{table: import("../outcome.js").Table}} props */
export function Grid({ table: { columns, rows } }) {
  const most = useSignal(MOST);
  const hidden = rows.length - most.value;
  return html`
    <div class="grid" tabindex="0" role="group" aria-label=${strings.message.table} data-testid="tool-table">
      <table>
        <thead><tr>${columns.map((name, place) => html`<th key=${name} scope="col" dir="auto" class=${sideOf(rows[0]?.[place])}>${visible(name)}</th>`)}</tr></thead>
        <tbody>
          ${rows.slice(0, most.value).map((row, index) => html`
            <tr key=${index}>${row.map((value, place) => html`<td key=${place} dir="auto" class=${sideOf(value)}>${visible(cell(value).slice(0, LONGEST))}</td>`)}</tr>
          `)}
        </tbody>
      </table>
    </div>
    ${hidden > 0 && html`<button type="button" class="button small" onClick=${() => (most.value += 10 * MOST)}>${strings.tool.more(hidden)}</button>`}
  `;
}

/** @param {unknown} value */
export const cell = (value) => (value === undefined || value === null ? "" : String(value));

/** Numbers stand under each other, and under their name. @param {unknown} value */
const sideOf = (value) => (typeof value === "number" ? "number" : "");
