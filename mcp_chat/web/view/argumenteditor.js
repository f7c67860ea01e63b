/** A call's arguments, changed by its user before it is made: in a form from the tool's schema, or as JSON. */
import { draftOf } from "../approvals.js";
import { schemaOf } from "../deciding.js";
import { argumentFields, contentOf } from "../form.js";
import { escaped, pretty } from "../format.js";
import { focus, onceLost } from "../focus.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Fields } from "./fields.js";

const MOST_ROWS = 8;

/** Begin in a form if that can show everything, and as JSON otherwise. @param {import("../approvals.js").Approval} approval */
export async function begin(approval) {
  const draft = draftOf(approval);
  const schema = await schemaOf(approval).catch(() => null); // without it there is JSON
  const fields = argumentFields(schema, approval.arguments);
  draft.edited.value = escaped(pretty(approval.arguments));
  draft.form.value = fields.length && fields.every(({ kind }) => kind !== "json") && covers(fields, approval.arguments) ? schema : null;
}

const covers = (fields, args) => Object.keys(args).every((name) => fields.some((field) => field.name === name));

/**
 * @param {{approval: import("../approvals.js").Approval, fault: {value: string}, faults: {value: Record<string, string>}}} props
 *   `fault`: of all; `faults`: of single fields
 */
export function ArgumentEditor({ approval, fault, faults }) {
  const draft = draftOf(approval);
  const box = useRef(null);
  useLayoutEffect(() => void focus("input, select, textarea", box.current), [draft.form.value]);
  const keys = (event) => {
    if (event.key !== "Escape") return;
    const card = box.current.closest(".approval");
    fault.value = "";
    draft.edited.value = draft.form.value = null;
    onceLost(() => focus("[data-testid=approval-edit]", card));
  };
  const way = draft.form.value
    ? html`<${Form} approval=${approval} draft=${draft} faults=${faults} />`
    : html`<${Json} approval=${approval} draft=${draft} fault=${fault} />`;
  return html`
    <div class="arguments" ref=${box} onKeyDown=${keys}>${way}<${Way} approval=${approval} draft=${draft} fault=${fault} /></div>
  `;
}

/** What is typed is kept as JSON with each key: the card may be painted elsewhere at any time. */
function Form({ approval, draft, faults }) {
  const first = useSignal(read(draft.edited.peek()) ?? approval.arguments);
  const fields = argumentFields(draft.form.value, first.value);
  const keep = (event) => {
    const others = Object.entries(first.value).filter(([name]) => fields.every((field) => field.name !== name));
    const content = contentOf(fields, new FormData(event.currentTarget));
    draft.edited.value = escaped(pretty({ ...Object.fromEntries(others), ...content }));
  };
  return html`
    <form class="fields" data-testid="approval-form" noValidate onInput=${keep} onSubmit=${(event) => event.preventDefault()}>
      <${Fields} fields=${fields} id=${`arguments-${approval.id}`} faults=${faults.value} />
    </form>
  `;
}

const Json = ({ approval: { id }, draft: { edited }, fault }) => html`
  <textarea class="args" rows=${Math.min(MOST_ROWS, edited.value.split("\n").length + 1)} spellcheck=${false} autocomplete="off" dir="auto"
    aria-label=${strings.tool.args} value=${edited.value} aria-invalid=${Boolean(fault.value)}
    aria-describedby=${fault.value ? `fault-${id}` : undefined} data-testid="approval-editor"
    onInput=${(event) => (edited.value = event.target.value)} />
`;

/** From one way to the other, with what was typed. */
function Way({ approval, draft, fault }) {
  const turn = async () => {
    fault.value = "";
    if (draft.form.value) return (draft.form.value = null);
    const args = read(draft.edited.value);
    const schema = args && (await schemaOf(approval).catch(() => null));
    if (args && argumentFields(schema, args).length) return (draft.form.value = schema);
    fault.value = args ? strings.approval.noForm : strings.approval.noObject;
  };
  return html`
    <button type="button" class="button small quiet" data-testid="approval-way" onClick=${turn}>
      ${draft.form.value ? strings.approval.asJson : strings.approval.asForm}
    </button>
  `;
}

/** @param {string} text @returns {object | null} */
function read(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
