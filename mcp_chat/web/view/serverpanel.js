/** The user's servers: how each is, which of its tools are used, and what to do where one needs the user. */
import { host, servers } from "../connection.js";
import { differenceOf } from "../difference.js";
import { distinct, visible } from "../format.js";
import { html } from "../html.js";
import { connected } from "../servers.js";
import { strings } from "../strings.js";
import { acceptTool, addServer, changeOf, reconnect, removeServer, signOutOf, switchServer, switchTool } from "../switching.js";
import { useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { act } from "./act.js";
import { Grants } from "./grants.js";
import { Icon } from "./icon.js";
import { SignIn } from "./serversignin.js";

export const Panel = () => html`
  <h2>${strings.servers.title}</h2>
  ${!connected.value.length && html`<p class="aside">${strings.servers.none}</p>`}
  ${connected.value.map((server) => html`<${Server} key=${server.alias} server=${server} />`)}
  <${Add} />
  <${Grants} />
`;

/** @param {{server: import("../servers.js").Connected}} props */
function Server({ server }) {
  const { alias, state, enabled, error, tools } = server;
  const asked = useSignal(false);
  const used = tools.filter((tool) => tool.enabled && !tool.held).length;
  const changed = tools.filter(({ held }) => held).length;
  return html`
    <section class="server" data-testid="server" data-alias=${alias} data-state=${state}>
      <h3>
        <label class="choice">
          <input type="checkbox" role="switch" checked=${enabled} data-testid="server-switch"
            aria-label=${strings.servers.use(distinct(alias))} onChange=${(event) => act(switchServer(alias, event.target.checked))} />
          <span dir="auto">${distinct(alias)}</span>
        </label>
        <span class="chip" role="status" data-testid="server-state">${strings.servers.states[state] ?? state}</span>
        <${RemoveServer} alias=${distinct(alias)} asked=${asked} />
      </h3>
      ${asked.value && html`
        <div class="sure" role="group" aria-label=${strings.servers.remove(distinct(alias))} data-testid="remove-sure">
          <p>${strings.servers.removeSure(distinct(alias))}</p>
          <button type="button" class="button small primary" data-testid="remove-yes" onClick=${() => act(removeServer(alias))}>${strings.servers.remove(distinct(alias))}</button>
          <button type="button" class="button small" onClick=${() => (asked.value = false)}>${strings.question.cancel}</button>
        </div>`}
      ${server.url && html`<p class="aside url" dir="ltr">${visible(host(server.url))}</p>`}
      ${error && html`<p class="aside" dir="auto">${visible(error)}</p>`}
      ${state === "sign_in" && html`<${SignIn} server=${server} />`}
      ${enabled && ["lost", "failed"].includes(state) && html`
        <button type="button" class="button small" data-testid="server-again" onClick=${() => act(reconnect(alias))}>${strings.servers.again}</button>`}
      ${server.signed_in && html`
        <button type="button" class="button small" data-testid="server-sign-out" onClick=${() => act(signOutOf(alias))}>
          ${strings.signIn.signOut}
        </button>
      `}
      ${tools.length > 0 && html`
        <details>
          <summary>${strings.servers.toolsUsed(used, tools.length)}${changed > 0 && html` <b>${strings.servers.toolsChanged(changed)}</b>`}</summary>
          <ul>${tools.map((tool) => html`<${Tool} key=${tool.name} alias=${alias} tool=${tool} />`)}</ul>
        </details>
      `}
      <${LeftOut} tools=${Object.entries(server.left_out ?? {})} />
    </section>
  `;
}

function RemoveServer({ alias, asked }) {
  const label = strings.servers.remove(alias);
  return html`
    <button type="button" class="icon-button small" data-testid="server-remove" aria-label=${label} title=${label} aria-expanded=${asked.value}
      onClick=${() => (asked.value = !asked.value)}><${Icon} name="close" /></button>
  `;
}

/** What the server offers and the chat does not take, and why. @param {{tools: [string, string][]}} props */
const LeftOut = ({ tools }) => tools.length > 0 && html`
  <p class="aside">${strings.servers.leftOut}</p>
  <ul class="left-out" data-testid="left-out">${tools.map(([name, why]) => html`<li key=${name}><code dir="auto">${distinct(name)}</code><small dir="auto">${visible(why)}</small></li>`)}</ul>
`;

/** @param {{alias: string, tool: import("../servers.js").Tool}} props */
function Tool({ alias, tool: { name, enabled, held } }) {
  const change = useSignal(null);
  const look = () => act(changeOf(alias, name).then((found) => (change.value = found)));
  return html`
    <li data-testid="tool" data-tool=${name}>
      <label class="choice">
        <input type="checkbox" checked=${enabled} data-testid="tool-switch"
          onChange=${(event) => act(switchTool(alias, name, event.target.checked))} />
        <code dir="auto">${distinct(name)}</code>
      </label>
      ${held && html`<button type="button" class="button small" data-testid="tool-changed" onClick=${look}>${strings.servers.changed}</button>`}
    </li>
    ${held && change.value && html`<li class="change"><${Change} alias=${alias} name=${name} change=${change.value} /></li>`}
  `;
}

/** What stood there and what stands there now: text, whoever wrote it. */
function Change({ alias, name, change: { hash, difference } }) {
  return html`
    <div data-testid="tool-difference">
      <p class="aside">${strings.servers.changedSince}</p>
      ${difference.map((each) => html`<${Place} key=${each.place} ...${each} />`)}
      <button type="button" class="button small primary" data-testid="tool-accept" onClick=${() => act(acceptTool(alias, name, hash))}>
        ${strings.servers.accept}
      </button>
    </div>
  `;
}

/** One place: both texts, each said to be what it is, with the words marked that the other has not. */
function Place({ place, before, after }) {
  const [old, now] = differenceOf(before ?? "", after ?? "");
  return html`
    <div>
      <code dir="auto">${visible(place)}</code>
      ${before && html`<p class="aside">${strings.servers.before}</p><del dir="auto">${old.map(marked)}</del>`}
      ${after && html`<p class="aside">${strings.servers.after}</p><ins dir="auto">${now.map(marked)}</ins>`}
    </div>
  `;
}

/** @param {import("../difference.js").Piece} piece */
const marked = ({ text, same }) => (same ? visible(text) : html`<mark>${visible(text)}</mark>`);

function Add() {
  const [busy, name] = [useSignal(false), useSignal("")];
  const form = useRef(null);
  const left = servers.value.filter(({ name }) => connected.value.every(({ alias }) => alias !== name));
  const submit = async (event) => {
    event.preventDefault();
    if (busy.value) return;
    busy.value = true;
    const done = await act(addServer(target(new FormData(form.current))));
    if (done) form.current.reset(), (name.value = ""), (form.current.parentElement.open = false);
    busy.value = false;
  };
  return html`
    <details class="add">
      <summary>${strings.servers.add}</summary>
      <form ref=${form} onSubmit=${submit} aria-busy=${busy.value}>
        <fieldset disabled=${busy.value}>
          ${left.length > 0 && html`
            <label class="field">
              <span>${strings.setup.server}</span>
              <select name="name" data-testid="add-name" onChange=${(event) => (name.value = event.target.value)}>
                <option value="">${strings.setup.ownServer}</option>
                ${left.map(({ name }) => html`<option key=${name} value=${name}>${distinct(name)}</option>`)}
              </select>
            </label>
          `}
          ${(!left.length || name.value === "") && html`<${OwnFields} />`}
          <button class="button small primary" data-testid="add-server">${busy.value ? strings.setup.connecting : strings.setup.connect}</button>
        </fieldset>
      </form>
    </details>
  `;
}

/** A server of the user's own. */
const OwnFields = () => html`
  <label class="field">
    <span>${strings.setup.url}</span>
    <input name="url" type="url" required placeholder=${strings.setup.urlPlaceholder} spellcheck=${false} autocomplete="off" data-testid="add-url" />
  </label>
  <label class="field">
    <span>${strings.setup.token} <i>${strings.setup.optional}</i></span>
    <input name="token" type="password" autocomplete="off" data-testid="add-token" />
    <small>${strings.setup.tokenHelp}</small>
  </label>
  <label class="field">
    <span>${strings.servers.transport}</span>
    <select name="transport" data-testid="add-transport">
      ${Object.entries(strings.servers.transports).map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}
    </select>
  </label>
`;

/** @param {FormData} form */
function target(form) {
  const [name, url, token] = ["name", "url", "token"].map((field) => (form.get(field) ?? "").trim());
  if (name) return { name };
  return { url, transport: form.get("transport"), ...(token && { auth_token: token }) };
}
