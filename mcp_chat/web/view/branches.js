/** What a message offers besides its text: to be edited, asked again, and left for another branch. */
import { again, revise, show } from "../branches.js";
import { focus, onceLost, toComposer } from "../focus.js";
import { html } from "../html.js";
import { textOf, working } from "../session.js";
import { strings } from "../strings.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { Icon } from "./icon.js";
import { When } from "./when.js";

/** @param {{message: import("../turn.js").Message, editing: {value: boolean}}} props */
export function QuestionTools({ message, editing }) {
  const known = Boolean(message.record); // before, there is room for the tools, so that nothing moves when they come
  return html`
    <footer>
      <${Switcher} branches=${message.branches} />
      ${known && html`<${Press} icon="edit" label=${strings.branches.edit} testid="edit" onClick=${() => (editing.value = true)} />`}
      <${When} at=${message.at} />
    </footer>
  `;
}

/** ‹ 2/3 › @param {{branches?: import("../turn.js").Message["branches"]}} props */
function Switcher({ branches }) {
  if (!branches) return null;
  const { place, count, before, after } = branches;
  const turn = async ({ currentTarget: { dataset, parentElement } }, id) => {
    const where = switchers().indexOf(parentElement);
    await show(id);
    requestAnimationFrame(() => focusOn(switchers()[where], dataset.testid)); // for who goes on with the keyboard
  };
  return html`
    <span class="switcher" role="group" aria-label=${strings.branches.which(place, count)} data-testid="switcher">
      <${Press} icon="back" label=${strings.branches.before} testid="branch-before" off=${!before} onClick=${(event) => turn(event, before)} />
      <span>${place}/${count}</span>
      <${Press} icon="chevron" label=${strings.branches.after} testid="branch-after" off=${!after} onClick=${(event) => turn(event, after)} />
    </span>
  `;
}

const switchers = () => [...document.querySelectorAll(".switcher")];

/** The same button where it was, or the other one at the end of the row. @param {Element | undefined} switcher @param {string} testid */
function focusOn(switcher, testid) {
  const open = [...(switcher?.querySelectorAll("button:not(:disabled)") ?? [])];
  (open.find((button) => button.dataset.testid === testid) ?? open[0])?.focus();
}

/** The text field that a question becomes. @param {{message: import("../turn.js").Message, editing: {value: boolean}}} props */
export function Editor({ message, editing }) {
  const field = useRef(null);
  const giveUp = () => {
    const place = field.current.closest(".message").previousElementSibling;
    const thread = field.current.closest(".column");
    editing.value = false;
    onceLost(() => focus("[data-testid=edit]", place?.nextElementSibling ?? thread.firstElementChild));
  };
  const submit = (event) => {
    event.preventDefault();
    const text = field.current.value;
    if (!text.trim() || working.value) return;
    editing.value = false;
    toComposer();
    revise(message, text);
  };
  useLayoutEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(field.current.value.length, field.current.value.length);
  }, []);
  const onKey = (event) => {
    if (event.key === "Escape" && !event.isComposing) giveUp();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`
    <form class="message user editor" onSubmit=${submit}>
      <textarea ref=${field} rows="3" dir="auto" data-testid="editor" aria-label=${strings.branches.edit}
        onKeyDown=${onKey}>${textOf(message)}</textarea>
      <p class="row">
        <button type="button" class="button small" data-testid="edit-cancel" onClick=${giveUp}>${strings.question.cancel}</button>
        <button class="button small primary" data-testid="edit-send" disabled=${working.value}>${strings.composer.send}</button>
      </p>
    </form>
  `;
}

/** @param {{message: import("../turn.js").Message}} props an answer */
export const Again = ({ message }) =>
  html`<${Press} icon="again" label=${strings.branches.again} testid="retry" onClick=${() => again(message)} />`;

function Press({ icon, label, testid, off = false, onClick }) {
  return html`
    <button type="button" class="icon-button small" aria-label=${label} title=${label} data-testid=${testid}
      disabled=${off || working.value} onClick=${onClick}><${Icon} name=${icon} /></button>
  `;
}
