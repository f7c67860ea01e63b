/** The messages, scrolled to the newest one unless the reader is looking at an older one. */
import { connection } from "../connection.js";
import { examplesFor } from "../examples.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { messages, send } from "../session.js";
import { strings } from "../strings.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";
import { Message } from "./message.js";

const NEAR_PX = 48;

export function Thread() {
  const { view, content, away, follow } = useFollowing();
  const count = messages.value.length;
  useLayoutEffect(follow, [count]); // a message of one's own is always looked at
  return html`
    <main class="thread" ref=${view} tabindex="0" aria-label=${strings.thread.label}>
      <div class="column" ref=${content}>
        ${messages.value.map((message) => html`<${Message} key=${message.peek().id} message=${message} />`)}
        ${!count && html`<${Empty} />`}
      </div>
    </main>
    <div class="latest" hidden=${!away.value}>
      <button type="button" class="icon-button" aria-label=${strings.thread.latest} title=${strings.thread.latest} onClick=${follow}>
        <${Icon} name="arrowDown" />
      </button>
    </div>
  `;
}

/** Keep the end in view while the content grows, until the reader scrolls away from it. */
function useFollowing() {
  const [view, content, away] = [useRef(null), useRef(null), useSignal(false)];
  const follow = () => {
    away.value = false;
    view.current.scrollTop = view.current.scrollHeight;
  };
  useLayoutEffect(() => {
    const box = view.current;
    const onScroll = () => (away.value = box.scrollHeight - box.scrollTop - box.clientHeight > NEAR_PX);
    let held = false; // a card that the reader opens shall not jump away under the pointer
    const onClick = (event) => (held = Boolean(event.target.closest("summary")));
    const onResize = () => (held ? onScroll() : away.value || follow(), (held = false));
    const watcher = new ResizeObserver(onResize);
    box.addEventListener("scroll", onScroll, { passive: true });
    box.addEventListener("click", onClick);
    for (const element of [box, content.current]) watcher.observe(element);
    return () => watcher.disconnect();
  }, []);
  return { view, content, away, follow };
}

/** What a conversation starts with. */
function Empty() {
  const { server, tools, demo } = connection.value;
  return html`
    <div class="empty">
      <h1>${strings.thread.greeting}</h1>
      <p dir="auto">${strings.thread.lead(visible(server), tools.length)}</p>
      <ul aria-label=${strings.thread.examples}>
        ${examplesFor(tools, demo).map((text) => html`
          <li key=${text}><button type="button" class="example" data-testid="example" onClick=${() => send(text)}>${text}</button></li>
        `)}
      </ul>
    </div>
  `;
}
