/** The choice of server and model, before there is a connection. */
import { host, models, servers } from "../connection.js";
import { distinct, visible } from "../format.js";
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { join } from "../start.js";
import { strings } from "../strings.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Abilities } from "./modelpicker.js";
import { Notice } from "./notice.js";

const OWN = "*"; // no server can be called so

export function Setup() {
  const server = useSignal(servers.value[0]?.name ?? OWN);
  const model = useSignal(models.value[0]?.id ?? "");
  const busy = useSignal(false);
  const first = useRef(null);
  useLayoutEffect(() => first.current.focus(), []);
  const chosen = models.value.find(({ id }) => id === model.value);
  const submit = async (event) => {
    event.preventDefault();
    if (busy.value || !chosen) return;
    busy.value = true;
    dismiss();
    await join({ ...target(server.value, new FormData(event.target)), model: chosen }).catch(report);
    busy.value = false;
  };
  return html`
    <main class="middle">
      <form class="card" onSubmit=${submit} aria-busy=${busy.value}>
        <h1>${strings.setup.title}</h1>
        <p class="lead">${strings.setup.lead}</p>
        <fieldset disabled=${busy.value}>
          <${ServerField} choice=${server} field=${first} />
          ${server.value === OWN && html`<${OwnServer} />`}
          <${ModelField} choice=${model} chosen=${chosen} />
        </fieldset>
        <button class="button primary" data-testid="connect" disabled=${busy.value || !chosen}>
          ${busy.value && html`<span class="spinner" />`}${busy.value ? strings.setup.connecting : strings.setup.connect}
        </button>
      </form>
    </main>
  `;
}

/** What to connect to. @param {string} name @param {FormData} form */
function target(name, form) {
  if (name !== OWN) return { server: { name }, serverName: name };
  const url = form.get("url").trim();
  const token = form.get("token").trim();
  const server = { url, transport: "streamable_http", ...(token && { auth_token: token }) };
  return { server, serverName: host(url) };
}

/** @param {{value: string}} choice */
const choose = (choice) => (event) => (choice.value = event.target.value);

/** @param {{choice: {value: string}, field: object}} props */
function ServerField({ choice, field }) {
  const known = servers.value.find(({ name }) => name === choice.value);
  return html`
    <label class="field">
      <span>${strings.setup.server}</span>
      <select ref=${field} value=${choice.value} onChange=${choose(choice)} data-testid="server-select">
        ${servers.value.map(({ name }) => html`<option key=${name} value=${name}>${distinct(name)}</option>`)}
        <option value=${OWN}>${strings.setup.ownServer}</option>
      </select>
      ${known?.description && html`<small dir="auto">${visible(known.description)}</small>`}
    </label>
  `;
}

function OwnServer() {
  const check = ({ target: input }) =>
    input.setCustomValidity(/^https?:\/\/[^/]/i.test(input.value.trim()) ? "" : strings.setup.urlInvalid);
  return html`
    <label class="field">
      <span>${strings.setup.url}</span>
      <input name="url" type="url" required placeholder=${strings.setup.urlPlaceholder} spellcheck=${false} autocomplete="off"
        onInput=${check} data-testid="server-url" />
    </label>
    <label class="field">
      <span>${strings.setup.token} <i>${strings.setup.optional}</i></span>
      <input name="token" type="password" autocomplete="off" data-testid="server-token" />
      <small>${strings.setup.tokenHelp}</small>
    </label>
  `;
}

/** @param {{choice: {value: string}, chosen?: import("../connection.js").Model}} props */
function ModelField({ choice, chosen }) {
  if (!models.value.length) return html`<${Notice} text=${strings.setup.noModels} />`;
  const providers = [...new Set(models.value.map((model) => model.provider_name))];
  return html`
    <label class="field">
      <span>${strings.setup.model}</span>
      <select value=${choice.value} onChange=${choose(choice)} data-testid="model-select">
        ${providers.map((provider) => html`
          <optgroup key=${provider} label=${visible(provider ?? "")}>
            ${models.value.filter((model) => model.provider_name === provider).map(modelOption)}
          </optgroup>
        `)}
      </select>
      ${chosen && !chosen.demo && html`<${Abilities} of=${chosen} />`}
    </label>
    ${chosen?.demo && html`<${Notice} text=${strings.demo} testid="demo-notice" />`}
  `;
}

/** @param {import("../connection.js").Model} model */
const modelOption = ({ id, model_name: name, demo }) =>
  html`<option key=${id} value=${id}>${demo ? strings.setup.demoOption(visible(name)) : visible(name)}</option>`;
