/** The line at the top: which conversation this is, what we are connected to, and as whom. */
import { connection, modelName } from "../connection.js";
import { distinct, spent, visible } from "../format.js";
import { html } from "../html.js";
import { elsewhere, signOut, user } from "../principal.js";
import { during } from "../problem.js";
import { messages } from "../session.js";
import { isOpen, possible, setOpen } from "../sidebar.js";
import { sum } from "../spent.js";
import { leave } from "../start.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { computed, useSignal } from "../vendor/signals.js";
import { Icon, Mark } from "./icon.js";
import { Language } from "./language.js";
import { Manner } from "./manner.js";
import { Servers } from "./servers.js";
import { Begin } from "./shortcuts.js";
import { Title } from "./title.js";

export function Header() {
  const chatting = user.value && connection.value;
  return html`
    <header class="header">
      ${chatting ? html`<${Beginning} />` : html`<div class="brand"><${Mark} /><span>${strings.product}</span></div>`}
      ${chatting && html`<${Servers} names=${connection.value.tools} /><${Badge} connection=${connection.value} />`}
      ${user.value && html`<${Extras} id=${user.value.id} connection=${connection.value} />`}
      ${!user.value && html`<${Language} />`}
    </header>
  `;
}

/** What leads to other conversations, while the sidebar does not, and the name of this one. */
function Beginning() {
  return html`
    ${possible.value && !isOpen.value && html`<${Toggle} />`}
    ${!(possible.value && isOpen.value) && html`<${Begin} />`}
    <${Title} />
  `;
}

function Toggle() {
  return html`
    <button type="button" class="icon-button" data-testid="sidebar-show" aria-expanded="false" aria-controls="sidebar"
      aria-label=${strings.sidebar.show} title=${strings.sidebar.show} onClick=${() => setOpen(true)}><${Icon} name="panel" /></button>
  `;
}

/** What is a menu where there is no room for it. @param {{id: string, connection: import("../connection.js").Connection | null}} props */
function Extras({ id, connection }) {
  const [box, isShown] = [useRef(null), useSignal(false)];
  useEffect(() => closeWhenLeft(box.current, isShown), []);
  return html`
    <div class="extras" data-open=${isShown.value} ref=${box}>
      <button type="button" class="icon-button unfold" data-testid="more" aria-expanded=${isShown.value} aria-controls="extras"
        aria-label=${strings.sidebar.account} title=${strings.sidebar.account} onClick=${() => (isShown.value = !isShown.value)}>
        <${Icon} name="dots" />
      </button>
      <div class="fold" id="extras">
        ${connection && html`<${Status} where=${whereOf(connection)} />`}
        <${Language} />
        <${Person} id=${id} />
      </div>
    </div>
  `;
}

/** Close it with Escape, and when the user goes on elsewhere. @param {HTMLElement} box */
function closeWhenLeft(box, isShown) {
  const close = () => (isShown.value = false);
  const onKey = ({ key }) => {
    if (key !== "Escape" || !isShown.value) return;
    close();
    box.querySelector(".unfold").focus();
  };
  const onPress = ({ target }) => box.contains(target) || close();
  box.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", onPress);
  return () => document.removeEventListener("pointerdown", onPress);
}

/** What we are connected to; only its mark where there is no room. @param {{connection: import("../connection.js").Connection}} props */
function Badge({ connection }) {
  return html`
    <span class="badge" title=${whereOf(connection)} data-testid="connected-badge">
      <span class="dot" /><span class="visually-hidden">${strings.status.connected}: </span>
      ${connection.server && html`<b dir="auto">${distinct(connection.server)}</b>`}<span class="model" dir="auto">${visible(modelName.value)}</span>
    </span>
  `;
}

/** @param {import("../connection.js").Connection} connection */
const whereOf = ({ server }) => visible([server, modelName.value].filter(Boolean).join(" · "));

/** @param {{where: string}} props */
function Status({ where }) {
  const leaving = useSignal(false);
  const label = leaving.value ? strings.status.disconnecting : strings.status.disconnect;
  return html`
    <div class="status">
      <p class="where" dir="auto">${where}</p>
      <${Spent} />
      <${Manner} />
      <button type="button" class="button small quiet" data-testid="disconnect" disabled=${leaving.value}
        aria-label=${label} title=${label} onClick=${() => during(leaving, leave)}>
        <${Icon} name="plug" /><span class="word">${label}</span>
      </button>
    </div>
  `;
}

/** Painted again only when the sum has changed, not with each token. */
const used = computed(() => spent(messages.value.map((message) => message.value.usage).reduce(sum, undefined)));

/** What the conversation has used so far. */
function Spent() {
  const text = used.value;
  return text && html`<span class="spent" title=${strings.status.spent} data-testid="session-spent">${text}</span>`;
}

/** @param {{id: string}} props */
function Person({ id }) {
  const leaving = useSignal(false);
  return html`
    <div class="person">
      <span class="avatar" aria-hidden="true">${[...visible(id)][0]?.toUpperCase()}</span>
      <span class="name" dir="auto" title=${strings.signIn.signedIn(visible(id))}>${visible(id)}</span>
      ${!elsewhere() && html`
        <button type="button" class="button small quiet" data-testid="sign-out" disabled=${leaving.value}
          aria-label=${strings.signIn.signOut} title=${strings.signIn.signOut} onClick=${() => during(leaving, signOut)}>
          <${Icon} name="signOut" /><span class="word">${strings.signIn.signOut}</span>
        </button>
      `}
    </div>
  `;
}
