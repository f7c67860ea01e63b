/** What servers ask: who asks, what for, and always a way to say no. */
import { reply } from "../deciding.js";
import { focus, onceLost, toComposer } from "../focus.js";
import { contentOf, fieldsOf } from "../form.js";
import { distinct, visible } from "../format.js";
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { questions } from "../questions.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { FullAddress } from "./address.js";
import { check, Fields, placed, toFault } from "./fields.js";
import { Notice } from "./notice.js";

export const Questions = () => questions.value.map((question) => html`<${Question} key=${question.id} question=${question} />`);

/** It is gone, and the focus with it: to the next one, or to where the user writes. */
function moveOn() {
  onceLost(() => focus(".question input, .question button") || toComposer());
  return {};
}

/** Beside its field what has one; the rest above all. @param {Error & {errors?: object[]}} error @returns {Record<string, string>} */
function told(error) {
  const faults = placed(error);
  if (!Object.keys(faults).length) report(error);
  return faults;
}

/** @param {{question: import("../questions.js").Question}} props */
function Question({ question }) {
  const busy = useSignal(false);
  const answer = async (action, content) => {
    if (busy.value) return {};
    busy.value = true;
    dismiss();
    const faults = await reply(question, action, content).then(moveOn, told);
    busy.value = false;
    return faults;
  };
  return html`
    <section class="question" tabindex="-1" aria-label=${strings.question.title(distinct(question.server))} data-testid="question" data-kind=${question.kind}>
      <h2 dir="auto">${strings.question.title(distinct(question.server))}</h2>
      <p class="said" dir="auto">${visible(question.message ?? "")}</p>
      ${question.warning && html`<${Notice} text=${visible(question.warning)} testid="question-warning" />`}
      ${question.kind === "form" ? html`<${Form} question=${question} busy=${busy} answer=${answer} />` : html`<${Link} question=${question} answer=${answer} />`}
    </section>
  `;
}

function Form({ question, busy, answer }) {
  const fields = fieldsOf(question.schema);
  const faults = useSignal({});
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const content = contentOf(fields, new FormData(form));
    faults.value = check(form, fields);
    if (!Object.keys(faults.value).length) faults.value = await answer("accept", content);
    if (Object.keys(faults.value).length) toFault(form);
  };
  return html`
    <form onSubmit=${submit} noValidate>
      <fieldset disabled=${busy.value}>
        <${Fields} fields=${fields} id=${`question-${question.id}`} faults=${faults.value} />
        <div class="buttons">
          <button class="button small primary" data-testid="question-accept">${strings.question.send}</button>
          <${Refusals} answer=${answer} />
        </div>
      </fieldset>
    </form>
  `;
}

/** Opening it is the user's own click, and says to the server that they are on their way; a sign-in says itself when it is done. */
function Link({ question, answer }) {
  if (!URL.canParse(question.url) || !/^https?:/.test(question.url)) return html`<div class="buttons"><${Refusals} answer=${answer} /></div>`;
  return html`
    <p>${strings.question.leads}</p>
    <${FullAddress} url=${question.url} />
    <div class="buttons">
      <a class="button small primary" href=${question.url} target="_blank" rel="noopener noreferrer" data-testid="question-open"
        onClick=${() => question.kind === "url" && answer("accept")}>${strings.address.open}</a>
      <${Refusals} answer=${answer} />
    </div>
  `;
}

const Refusals = ({ answer }) => html`
  <button type="button" class="button small" data-testid="question-decline" onClick=${() => answer("decline")}>${strings.question.decline}</button>
  <button type="button" class="button small quiet" data-testid="question-cancel" onClick=${() => answer("cancel")}>${strings.question.cancel}</button>
`;
