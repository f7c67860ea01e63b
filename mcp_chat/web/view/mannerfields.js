/** What can be set about a conversation, and what was used of what its user may use. */
import { connection, models } from "../connection.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { formats } from "../language.js";
import { strings } from "../strings.js";
import { limitsOf } from "../usage.js";

const LONGEST_PROMPT = 16000;

export function Fields({ manner }) {
  return html`
      <label class="field">
        <span>${strings.models.title}</span>
        <select name="model" data-testid="manner-model">
          <option value="" selected=${!manner.model}>${visible(connection.value.model)} (${strings.models.connected})</option>
          ${models.value.filter(({ id }) => id !== connection.value.modelId || id === manner.model).map(({ id, model_name: name }) => html`
            <option key=${id} value=${id} selected=${id === manner.model}>${visible(name)}</option>`)}
        </select>
      </label>
      <label class="field">
        <span>${strings.manner.prompt} <i>${strings.setup.optional}</i></span>
        <textarea name="prompt" rows="4" dir="auto" maxlength=${LONGEST_PROMPT} data-testid="manner-prompt">${manner.system_prompt ?? ""}</textarea>
        <small>${strings.manner.promptHelp}</small>
      </label>
      <label class="field">
        <span>${strings.manner.temperature} <i>${strings.setup.optional}</i></span>
        <input name="temperature" type="number" min="0" max="2" step="any" value=${manner.temperature ?? ""} data-testid="manner-temperature" />
        <small>${strings.manner.temperatureHelp}</small>
      </label>
  `;
}

/** What today and this month have taken, and what is left. @param {{usage: import("../usage.js").Usage}} props */
export function Used({ usage: { today, month, limits } }) {
  const set = limitsOf(limits);
  return html`
    <section class="used" data-testid="usage">
      <h3>${strings.usage.title}</h3>
      <dl>
        <dt>${strings.usage.today}</dt><dd>${sumOf(today)}</dd>
        <dt>${strings.usage.month}</dt><dd>${sumOf(month)}</dd>
      </dl>
      ${set.map((limit) => html`<${Limit} key=${limit.name} of=${limit} />`)}
      ${set.some(({ left }) => left !== undefined) && html`<p class="aside">${strings.usage.anew(clock(limits.resets_at))}</p>`}
    </section>
  `;
}

function Limit({ of: { name, limit, left } }) {
  const what = strings.usage.of[name.split("_")[1]];
  if (left === undefined) return html`<p class="aside">${strings.usage.perTurn(what, formats().number(limit))}</p>`;
  const label = strings.usage.left(what, formats().number(left), formats().number(limit));
  return html`<p class="limit" data-testid="limit" data-limit=${name}><span>${label}</span><meter min="0" max=${limit} low=${limit / 10} value=${left} aria-label=${label} /></p>`;
}

/** @param {import("../usage.js").Used} used */
const sumOf = ({ input_tokens: read, output_tokens: said, cost, calls }) => strings.usage.sum(read + said, cost ? formats().money(cost) : "", calls);

/** @param {string} moment */
const clock = (moment) => formats().moment(new Date(moment), { hour: "2-digit", minute: "2-digit" });
