/** A form made from a schema: each field with its help, and what is wrong with it beside it. */
import { faultsOf, inputOf, isLong, shownDefault } from "../form.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";

/**
 * @param {{fields: import("../form.js").Field[], id: string, faults: Record<string, string>}} props
 *   `id`: of the form, from which its elements have theirs
 */
export const Fields = ({ fields, id, faults }) =>
  fields.map((field, index) => html`<${Field} key=${field.name} field=${field} id=${`${id}-${index}`} fault=${faults[field.name]} />`);

/**
 * Look for what is wrong, and bring the user to the first of it.
 * @param {HTMLFormElement} form @param {import("../form.js").Field[]} fields @returns {Record<string, string>}
 */
export function check(form, fields) {
  const data = new FormData(form);
  const found = Object.entries(faultsOf(fields, data)).map(([name, [kind, bound]]) => [name, strings.field[kind](bound)]);
  const unread = [...form.elements].filter(({ validity }) => validity?.badInput);
  return Object.fromEntries([...found, ...unread.map(({ name }) => [name, strings.field.unreadable()])]);
}

/** What the server found wrong, by the fields' names. @param {{errors?: {loc: (string | number)[], msg: string}[]}} error */
export const placed = ({ errors = [] }) =>
  Object.fromEntries(errors.filter(({ loc }) => loc.length > 2).map(({ loc, msg }) => [loc[2], msg]));

/** To the first field that is not right. @param {HTMLElement} form */
export const toFault = (form) => requestAnimationFrame(() => form.querySelector("[aria-invalid=true]")?.focus());

/** @param {{field: import("../form.js").Field, id: string, fault?: string}} props */
function Field({ field, id, fault }) {
  if (field.kind === "yes") return html`<${Yes} field=${field} id=${id} />`;
  if (field.kind === "many") return html`<${Many} field=${field} id=${id} fault=${fault} />`;
  return html`
    <div class="field">
      <label for=${id}><${Label} field=${field} /></label>
      <${Entry} field=${field} id=${id} fault=${fault} />
      <${Notes} field=${field} id=${id} fault=${fault} />
    </div>
  `;
}

/** What an element says of itself to those who do not see what stands around it. */
const stated = (field, id, fault) => ({
  id,
  name: field.name,
  "aria-invalid": fault ? "true" : undefined,
  "aria-describedby": [field.help && `${id}-help`, fault && `${id}-fault`].filter(Boolean).join(" ") || undefined,
});

function Entry({ field, id, fault }) {
  const about = { ...stated(field, id, fault), required: field.required };
  if (field.kind === "one" || field.kind === "perhaps") return html`<${One} field=${field} about=${about} />`;
  if (isLong(field)) return html`<textarea ...${about} rows="3" dir="auto" spellcheck=${false} class=${field.kind} defaultValue=${shownDefault(field)} />`;
  return html`<input ...${about} ...${inputOf(field)} dir="auto" autocomplete="off" spellcheck=${false} defaultValue=${shownDefault(field)} />`;
}

const SAID = ["true", "false"].map((value) => ({ value, title: value }));

function One({ field, about }) {
  const { kind, required, default: chosen } = field;
  const choices = kind === "perhaps" ? SAID : field.choices;
  return html`
    <select ...${about}>
      ${(!required || chosen === undefined) && html`<option value="">${strings.question.choose}</option>`}
      ${choices.map(({ value, title }) => html`<option key=${value} value=${value} selected=${value === chosen}>${visible(title)}</option>`)}
    </select>
  `;
}

function Many({ field, id, fault }) {
  const { name, ...about } = stated(field, id, fault);
  return html`
    <fieldset class="choices" ...${about} tabindex="-1">
      <legend><${Label} field=${field} /></legend>
      ${field.choices.map(({ value, title }) => html`
        <label class="choice" key=${value}>
          <input type="checkbox" name=${name} value=${value} defaultChecked=${(field.default ?? []).includes(value)} />
          <span dir="auto">${visible(title)}</span>
        </label>
      `)}
      <${Notes} field=${field} id=${id} fault=${fault} />
    </fieldset>
  `;
}

const Yes = ({ field, id }) => html`
  <div class="field">
    <label class="choice">
      <input type="checkbox" ...${stated(field, id)} defaultChecked=${field.default === true} />
      <span dir="auto">${visible(field.label)}</span>
    </label>
    <${Notes} field=${field} id=${id} />
  </div>
`;

const Label = ({ field }) => html`
  <span dir="auto">${visible(field.label)}</span>${!field.required && html` <i>${strings.setup.optional}</i>`}
`;

const Notes = ({ field, id, fault }) => html`
  ${field.help && html`<small id=${`${id}-help`} dir="auto">${visible(field.help)}</small>`}
  ${fault && html`<small id=${`${id}-fault`} class="fault" dir="auto" data-testid="field-fault">${visible(fault)}</small>`}
`;
