/** One message: the user's words as they typed them, or an answer with its tool calls in order. */
import { figures, visible } from "../format.js";
import { html } from "../html.js";
import { messages, send, textOf } from "../session.js";
import { strings } from "../strings.js";
import { CopyButton } from "./copy.js";
import { Icon } from "./icon.js";
import { Markdown } from "./markdown.js";
import { ToolCard } from "./toolcard.js";

/** @param {{message: {value: import("../turn.js").Message}}} props */
export function Message({ message: { value } }) {
  return value.role === "user" ? html`<${Question} message=${value} />` : html`<${Answer} message=${value} />`;
}

function Question({ message }) {
  return html`
    <article class="message user" aria-label=${strings.message.you} data-testid="message-user">
      <p dir="auto">${textOf(message)}</p>
    </article>
  `;
}

function Answer({ message }) {
  const { parts, state } = message;
  return html`
    <article class="message assistant" aria-label=${strings.message.assistant} aria-busy=${state === "running"}
      data-testid="message-assistant" data-state=${state}>
      ${parts.map((part, index) => html`<${Part} key=${part.id ?? index} part=${part} />`)}
      <${Outcome} message=${message} />
    </article>
  `;
}

const Part = ({ part }) => (part.kind === "tool" ? html`<${ToolCard} part=${part} />` : html`<${Markdown} source=${part.text} />`);

/** What stands under the parts: signs of life, or how it ended. */
function Outcome({ message }) {
  if (message.state === "running") return html`<${Pulse} parts=${message.parts} />`;
  if (message.state === "failed") return html`<${Failure} message=${message} />`;
  const text = textOf(message);
  return html`
    ${message.state === "stopped" && html`<p class="aside" data-testid="stopped">${strings.message.stopped}</p>`}
    ${message.state === "done" && !message.parts.length && html`<p class="aside">${strings.message.empty}</p>`}
    <footer>
      ${text && html`<${CopyButton} text=${text} label=${strings.message.copy} testid="copy" />`}
      <span>${figures(message)}</span>
    </footer>
  `;
}

/** Nothing while a tool card spins: it says the same. */
function Pulse({ parts }) {
  const last = parts.at(-1);
  if (last?.kind === "tool" && last.state === "running") return null;
  return html`<p class="pulse" role="img" aria-label=${strings.message.working}><i /><i /><i /></p>`;
}

function Failure({ message }) {
  const again = () => send(questionBefore(message));
  const last = messages.value.at(-1)?.peek().id === message.id;
  return html`
    <div class="failure" data-testid="error">
      <${Icon} name="alert" />
      <p dir="auto">${visible(message.error || strings.message.failed)}</p>
      ${message.recoverable && last && html`<button type="button" class="button small" onClick=${again}>${strings.retry}</button>`}
    </div>
  `;
}

/** The message of the user that an answer belongs to. */
function questionBefore({ id }) {
  const all = messages.value.map((one) => one.value);
  const before = all.slice(0, all.findIndex((one) => one.id === id));
  const question = before.findLast(({ role }) => role === "user");
  return question ? textOf(question) : "";
}
