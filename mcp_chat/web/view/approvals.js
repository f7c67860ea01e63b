/** Calls that wait for their user: what would be called, with what, and what can be decided. */
import { approvals, draftOf } from "../approvals.js";
import { decide } from "../deciding.js";
import { distinct, pretty, visible } from "../format.js";
import { focus, onceLost, toComposer } from "../focus.js";
import { html } from "../html.js";
import { messages } from "../session.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { ArgumentEditor, begin } from "./argumenteditor.js";
import { placed, toFault } from "./fields.js";

/** Those whose calls have no card in the conversation yet, in their order. */
export function Approvals() {
  if (!approvals.value.length) return null;
  const shown = callsOf(messages.value.at(-1)?.value);
  const others = approvals.value.filter(({ call_id: call }) => !shown.has(call));
  return others.map((approval) => html`<${Approval} key=${approval.id} approval=${approval} />`);
}

/** @param {import("../turn.js").Message | undefined} message @returns {Set<string>} the calls that run in it */
const callsOf = (message) => new Set(message?.parts.filter(({ kind, state }) => kind === "tool" && state === "running").map(({ id }) => id));

/** The one that a call waits for, if it does. @param {import("../turn.js").ToolPart} part */
export const approvalOf = ({ id, state }) => state === "running" && approvals.value.find(({ call_id: call }) => call === id);

/** @param {{approval: import("../approvals.js").Approval}} props */
export function Approval({ approval }) {
  const [busy, fault, faults, draft] = [useSignal(false), useSignal(""), useSignal({}), draftOf(approval)];
  const say = async (decision, more) => {
    if (busy.value || !more) return;
    busy.value = true;
    fault.value = "";
    faults.value = {};
    await decide(approval, decision, more).then(moveOn, (error) => told(error, fault, faults, draft, approval));
    busy.value = false;
  };
  const allow = (decision) => say(decision, changes(draft.edited.value, fault));
  const deny = () => say("deny", draft.reason.value ? { reason: draft.reason.value } : {});
  return html`
    <section class="question approval" role="group" aria-labelledby=${`asks-${approval.id}`} aria-describedby=${`keys-${approval.id}`}
      aria-busy=${busy.value} data-testid="approval" data-tool=${approval.tool} data-id=${approval.id} onKeyDown=${(event) => onKey(event, () => allow("once"))}>
      <h2 id=${`asks-${approval.id}`} dir="auto">${approval.turn_id ? strings.approval.wants : strings.approval.wantsForApp} <code>${distinct(approval.name)}</code> <span class="chip">${distinct(approval.server)}</span></h2>
      ${draft.edited.value === null
        ? html`<pre class="args" dir="auto" tabindex="0" role="region" aria-label=${strings.tool.args} data-testid="approval-args">${visible(pretty(approval.arguments))}</pre>`
        : html`<${ArgumentEditor} approval=${approval} fault=${fault} faults=${faults} />`}
      ${fault.value && html`<p class="fault" role="alert" id=${`fault-${approval.id}`} data-testid="approval-fault">${fault.value}</p>`}
      <${Buttons} approval=${approval} busy=${busy} fault=${fault} allow=${allow} />
      <${Denial} draft=${draft} busy=${busy} deny=${deny} />
      <p class="visually-hidden" id=${`keys-${approval.id}`}>${strings.approval.keys}</p>
    </section>
  `;
}

/** A decision takes a key that nobody presses while they type, and the focus in the card. */
function onKey(event, allow) {
  const within = event.target.closest("[data-testid=approval-reason]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !within) allow();
}

/** The card is gone, and the focus with it: to the next one, or to where the user writes. */
const moveOn = () => onceLost(() => focus(".approval .args, .approval input") || toComposer());

/** Beside its field what has one, and what has none, or whose field is not there, below all. */
function told(error, fault, faults, { form }, { id }) {
  faults.value = form.value ? placed(error) : {};
  const here = Object.keys(faults.value).filter((name) => Object.hasOwn(form.value.properties ?? {}, name));
  if (here.length < Math.max(1, error.errors?.length ?? 0)) fault.value = visible(error.message);
  else toFault(document.querySelector(`[data-id="${CSS.escape(id)}"]`));
}

/** What was typed as arguments; nothing, and why, if it is no JSON object. @returns {{arguments?: object} | null} */
function changes(text, fault) {
  if (text === null) return {};
  try {
    const read = JSON.parse(text);
    if (read && typeof read === "object" && !Array.isArray(read)) return { arguments: read };
    fault.value = strings.approval.noObject;
  } catch (error) {
    fault.value = strings.approval.noJson(visible(error.message));
  }
  return null;
}

function Buttons({ approval, busy, fault, allow }) {
  const texts = { once: strings.approval.once, session: strings.approval.session, always: strings.approval.always };
  const { edited, form } = draftOf(approval);
  const edit = () => {
    fault.value = "";
    if (edited.value === null) return begin(approval);
    edited.value = form.value = null;
  };
  const press = (event, decision) => event.detail > 1 || allow(decision); // the second click of two was meant for what stood here before
  return html`
    <div class="buttons">
      ${approval.decisions.filter((each) => each in texts).map((each) => html`
        <button key=${each} type="button" class=${`button small ${each === "once" ? "primary" : ""}`} disabled=${busy.value}
          aria-keyshortcuts=${each === "once" ? "Control+Enter" : undefined}
          data-testid=${`approval-${each}`} onClick=${(event) => press(event, each)}>${texts[each]}</button>
      `)}
      <button type="button" class="button small quiet" disabled=${busy.value} data-testid="approval-edit" onClick=${edit}>
        ${edited.value === null ? strings.approval.edit : strings.approval.keep}
      </button>
    </div>
  `;
}

const Denial = ({ draft: { reason }, busy, deny }) => html`
  <form class="denial" onSubmit=${(event) => (event.preventDefault(), deny())}>
    <input aria-label=${strings.approval.reason} placeholder=${strings.approval.whyNot} maxlength="2000" autocomplete="off" dir="auto"
      value=${reason.value} onInput=${(event) => (reason.value = event.target.value)} data-testid="approval-reason" />
    <button class="button small" disabled=${busy.value} data-testid="approval-deny">${strings.approval.deny}</button>
  </form>
`;
