/** One message: the user's words as they typed them, or an answer with its tool calls in order. */
import { approvals } from "../approvals.js";
import { again } from "../branches.js";
import { figures, plain, spent, visible } from "../format.js";
import { html } from "../html.js";
import { questions } from "../questions.js";
import { messages, target, textOf } from "../session.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { Approval, approvalOf } from "./approvals.js";
import { WentWith } from "./attachments.js";
import { Again, Editor, QuestionTools } from "./branches.js";
import { CopyButton } from "./copy.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";
import { When } from "./when.js";

const Markdown = lazy(() => import("./markdown.js").then((module) => module.Markdown), "style/prose.css");
const ToolCard = lazy(() => import("./toolcard.js").then((module) => module.ToolCard), "style/tool.css", "style/prose.css");

/** @param {{message: {value: import("../turn.js").Message}}} props */
export function Message({ message: { value } }) {
  return value.role === "user" ? html`<${Question} message=${value} />` : html`<${Answer} message=${value} />`;
}

/** How a message is found, and whether it is the one that was looked for. */
const place = ({ id }) => ({ "data-message": id, tabindex: "-1", "data-found": target.value === id });

function Question({ message }) {
  const editing = useSignal(false);
  if (editing.value) return html`<${Editor} message=${message} editing=${editing} />`;
  return html`
    <article ...${place(message)} class="message user" aria-label=${strings.message.you} data-testid="message-user" data-state=${message.state}>
      <${WentWith} message=${message} />
      ${textOf(message) && html`<p class="bubble" dir="auto">${plain(textOf(message))}</p>`}
      ${message.state === "waiting"
        ? html`<p class="aside" role="status">${strings.message.waiting}</p>`
        : html`<${QuestionTools} message=${message} editing=${editing} />`}
    </article>
  `;
}

function Answer({ message }) {
  const { parts, state } = message;
  Markdown.fetch(); // while the model still thinks
  return html`
    <article ...${place(message)} class="message assistant" aria-label=${strings.message.assistant} aria-busy=${state === "running"}
      data-testid="message-assistant" data-state=${state}>
      ${parts.map((part, index) => html`<${Part} key=${part.id ?? index} part=${part} now=${state === "running" && index === parts.length - 1} />`)}
      <${Outcome} message=${message} />
    </article>
  `;
}

function Part({ part, now }) {
  if (part.kind === "tool") return html`<${Call} part=${part} />`;
  if (part.kind === "notice") return html`<p class="aside" role="status" data-testid="notice">${part.text}</p>`;
  return part.kind === "thought" ? html`<${Thought} part=${part} now=${now} />` : html`<${Markdown} source=${part.text} growing=${now} />`;
}

/** A call, or what its user is asked about it. */
function Call({ part }) {
  const approval = approvalOf(part);
  return approval ? html`<${Approval} key=${approval.id} approval=${approval} />` : html`<${ToolCard} part=${part} />`;
}

/** What the model thinks aloud: folded, as it is no part of what it says. */
function Thought({ part, now }) {
  return html`
    <details class="thought" data-testid="thought">
      <summary>${now ? strings.message.thinking : strings.message.thoughts}<${Icon} name="chevron" /></summary>
      <p dir="auto">${plain(part.text)}</p>
    </details>
  `;
}

/** What stands under the parts: signs of life, or how it ended. */
function Outcome({ message }) {
  if (message.state === "running") return html`<${Pulse} parts=${message.parts} />`;
  if (message.state === "failed") return html`<${Failure} message=${message} />`;
  const text = textOf(message);
  return html`
    ${message.state === "stopped" && html`<p class="aside" data-testid="stopped">${strings.message.stopped}</p>`}
    ${message.state === "done" && !message.parts.some(says) && html`<p class="aside">${strings.message.empty}</p>`}
    ${message.ended && html`<p class="aside" data-testid="ended">${strings.message.ended[message.ended]}</p>`}
    <footer>
      ${text && html`<${CopyButton} text=${text} label=${strings.message.copy} testid="copy" />`}
      <${Again} message=${message} />
      <span class="figures">${figures(message)}</span>
      <${When} at=${message.at} />
    </footer>
  `;
}

const says = ({ kind }) => kind === "text" || kind === "tool";

/** Nothing while a tool card spins: it says the same. While the user is asked, it is they who are waited for. */
function Pulse({ parts }) {
  const last = parts.at(-1);
  if (approvals.value.length || questions.value.length) return html`<p class="aside">${strings.message.asked}</p>`;
  if (last?.kind === "tool" && last.state === "running") return null;
  return html`<p class="pulse" role="img" aria-label=${strings.message.working}><i /><i /><i /></p>`;
}

function Failure({ message }) {
  const last = messages.value.at(-1)?.peek().id === message.id;
  return html`
    <div class="failure" data-testid="error">
      <${Icon} name="alert" />
      <p dir="auto">${visible(message.error || strings.message.failed)}</p>
      ${message.recoverable && last && html`<button type="button" class="button small" onClick=${() => again(message)}>${strings.retry}</button>`}
    </div>
    ${spent(message.usage) && html`<footer><span class="figures">${figures(message)}</span></footer>`}
  `;
}
