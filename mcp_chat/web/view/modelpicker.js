/** The choice of another model, with what each can do. */
import { abilitiesOf, chooseModel, connectWith, figuresOf } from "../choosing.js";
import { connection, model, modelName, models, own } from "../connection.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { kept } from "../models.js";
import { dismiss } from "../problem.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Notice } from "./notice.js";

const MANY = 8; // more than that are looked for by name

/** @param {{close: () => void}} props */
export function Picker({ close }) {
  const now = model.value?.id;
  const [choice, query, busy, fault] = [useSignal(now), useSignal(""), useSignal(false), useSignal("")];
  const form = useRef(null);
  useEffect(() => (form.current.querySelector(":checked") ?? form.current.querySelector("input"))?.focus(), []);
  const found = models.value.filter((each) => matches(each, query.value));
  const act = async (doing) => {
    if (!choice.value || busy.value) return;
    [busy.value, fault.value] = [true, ""];
    dismiss();
    await doing(choice.value).then(close, (error) => (fault.value = error.status === undefined ? error.message : visible(error.message))); // the banner is behind the dialog
    busy.value = false;
  };
  const submit = (event) => (event.preventDefault(), act(kept.value ? chooseModel : connectWith));
  return html`
    <form ref=${form} onSubmit=${submit} aria-busy=${busy.value}>
      <h2>${strings.models.title}</h2>
      ${models.value.length > MANY && html`<label class="field"><span class="visually-hidden">${strings.models.filter}</span>
        <input type="search" placeholder=${strings.models.filter} data-testid="model-filter" onInput=${(event) => (query.value = event.target.value)}
          onKeyDown=${(event) => event.key === "Enter" && event.preventDefault()} /></label>`}
      ${!model.value && html`<${Notice} text=${`${strings.models.ownModel}: ${visible(modelName.value)}`} />`}
      <div class="choices" role="radiogroup" aria-label=${strings.models.title}>
        ${found.map((each) => html`<${Choice} key=${each.id} of=${each} choice=${choice} />`)}
        ${!found.length && html`<p class="aside">${strings.models.none}</p>`}
      </div>
      ${kept.value ? html`<p class="aside">${strings.models.anewHelp}</p>` : html`<${Notice} text=${strings.models.noDatabase} testid="model-no-database" />`}
      ${fault.value && html`<p class="fault" role="alert" dir="auto" data-testid="model-fault">${fault.value}</p>`}
      <p class="row">
        <button type="button" class="button small" onClick=${close}>${strings.question.cancel}</button>
        <button type=${kept.value ? "button" : "submit"} class="button small ${kept.value ? "" : "primary"}" data-testid="model-anew" disabled=${busy.value}
          onClick=${kept.value ? () => act(connectWith) : undefined}>${strings.models.anew}</button>
        ${kept.value && html`<button class="button small primary" data-testid="model-here" disabled=${busy.value}>${strings.models.here}</button>`}
      </p>
    </form>
  `;
}

/** @param {import("../connection.js").Model} of @param {string} query */
const matches = ({ model_name: name, provider_name: provider, id }, query) =>
  `${name} ${provider} ${id}`.toLowerCase().includes(query.trim().toLowerCase());

/** @param {{of: import("../connection.js").Model, choice: {value: string}}} props */
function Choice({ of, choice }) {
  const usual = own.value && of.id === connection.value?.modelId;
  return html`
    <label class="choice model-choice" data-testid="model-choice" data-model=${of.id}>
      <input type="radio" name="model" value=${of.id} checked=${choice.value === of.id} onChange=${() => (choice.value = of.id)} />
      <span>
        <b dir="auto">${visible(of.model_name)}</b> <span class="aside" dir="auto">${visible(of.provider_name)}${usual ? `, ${strings.models.connected}` : ""}</span>
        <${Abilities} of=${of} />
      </span>
    </label>
  `;
}

/** What a model can do, and what it costs. @param {{of: import("../connection.js").Model}} props */
export const Abilities = ({ of }) => html`
  <span class="abilities" data-testid="abilities">
    ${abilitiesOf(of).map((name) => html`<span class="chip" key=${name}>${name}</span>`)}
    ${figuresOf(of).map((text) => html`<small key=${text}>${text}</small>`)}
    ${of.description && html`<small dir="auto">${visible(of.description)}</small>`}
  </span>
`;
