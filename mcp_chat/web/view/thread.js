/** The messages, scrolled to the newest one unless the reader is looking at an older one. */
import { waiting } from "../announcements.js";
import { connection } from "../connection.js";
import { examplesFor } from "../examples.js";
import { distinct } from "../format.js";
import { html } from "../html.js";
import { waiting as signIns } from "../servers.js";
import { draft, messages, older, send } from "../session.js";
import { strings } from "../strings.js";
import { useEffect } from "../vendor/preact-hooks.js";
import { effect } from "../vendor/signals.js";
import { Asked, AskedButton, useShortcut } from "./asked.js";
import { useExtent, useFollowing, useTarget } from "./following.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";

const Message = lazy(() => import("./message.js").then((module) => module.Message), "style/message.css", "style/enclosed.css", "style/servers.css");
const SignIn = lazy(() => import("./serversignin.js").then((module) => module.SignIn), "style/servers.css");

export function Thread() {
  const following = useFollowing();
  const { view, content, away, follow } = following;
  const page = useExtent(following);
  const more = page.start > 0 || older.value;
  useTarget(following);
  useShortcut();
  useEffect(() => effect(() => void (draft.value && Message.fetch())), []); // there will be a message soon
  const onKey = (event) => {
    if (event.key !== "Home" || event.target !== view.current || !more) return;
    event.preventDefault();
    page.beginning();
  };
  return html`
    <main class="thread" ref=${view} tabindex="0" aria-label=${strings.thread.label} onKeyDown=${onKey}>
      <div class="column" ref=${content}>
        ${more && html`<${Older} page=${page} />`}
        ${page.shown.map((message) => html`<${Message} key=${message.peek().id} message=${message} />`)}
        ${!messages.value.length && html`<${Empty} />`}
        <${Asked} />
      </div>
    </main>
    <div class="latest" hidden=${!away.value}>
      ${waiting.value > 0 ? html`<${AskedButton} />` : html`
        <button type="button" class="icon-button" aria-label=${strings.thread.latest} title=${strings.thread.latest} onClick=${follow}>
          <${Icon} name="arrowDown" />
        </button>
      `}
    </div>
  `;
}

/** Older messages come while one scrolls; who does not scroll asks for them. */
function Older({ page: { loading, up, beginning } }) {
  const label = loading.value ? strings.conversation.loadingOlder : strings.conversation.older;
  return html`
    <p class="older" data-testid="older">
      <button type="button" class="button small quiet" aria-busy=${loading.value} onClick=${up}>${label}</button>
      <button type="button" class="button small quiet" data-testid="beginning" onClick=${beginning}>${strings.conversation.beginning}</button>
    </p>
  `;
}

/** What a conversation starts with. */
function Empty() {
  const { server, tools, demo } = connection.value;
  return html`
    <div class="empty">
      <h2>${strings.thread.greeting}</h2>
      ${(tools.length > 0 || !signIns.value.length) && html`<p dir="auto">${server ? strings.thread.lead(distinct(server), tools.length) : strings.servers.none}</p>`}
      ${signIns.value.map((each) => html`
        <section class="wanted" key=${each.alias} data-testid="sign-in-first">
          <p dir="auto">${strings.thread.signIn(distinct(each.alias))}</p><${SignIn} server=${each} />
        </section>
      `)}
      <ul aria-label=${strings.thread.examples}>
        ${examplesFor(tools, demo).map((text) => html`
          <li key=${text}><button type="button" class="example" data-testid="example" onClick=${() => send(text)}>${text}</button></li>
        `)}
      </ul>
    </div>
  `;
}
