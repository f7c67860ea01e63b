/** The fields of a form that is made from a schema, what was filled in, and what is wrong with that. Pure. */

/**
 * @typedef {{name: string, label: string, help: string, required: boolean, default: any, schema: any,
 *   kind: "text" | "number" | "yes" | "perhaps" | "one" | "many" | "json", choices: {value: string, title: string}[]}} Field
 * @typedef {[kind: string, bound?: number]} Fault by its name in `strings.field`
 */

/** @param {{properties?: object, required?: string[]}} schema flat, as the server of the chat gives it @returns {Field[]} */
export const fieldsOf = (schema) => Object.entries(schema?.properties ?? {}).map(([name, each]) => field(name, each, schema));

/**
 * The fields of a call's arguments: what a form has no field for is written as JSON.
 * @param {object} schema the tool's own @param {object} args what they are now @returns {Field[]}
 */
export function argumentFields(schema, args) {
  const properties = schema?.properties;
  if (!properties || typeof properties !== "object") return [];
  return Object.entries(properties).map(([name, each]) => {
    const known = field(name, withoutNull(each), schema);
    const given = { ...known, default: args[name] };
    return { ...given, kind: expressible(given) ? kindOfArgument(given) : "json" };
  });
}

/** @param {string} name @param {any} each @param {{required?: string[]}} schema @returns {Field} */
const field = (name, each, schema) => ({
  name,
  label: textOr(each?.title, name),
  help: textOr(each?.description, ""),
  required: Array.isArray(schema.required) && schema.required.includes(name),
  default: each?.default,
  schema: each ?? {},
  kind: kindOf(each ?? {}),
  choices: choicesOf(each ?? {}),
});

const textOr = (value, other) => (typeof value === "string" && value ? value : other);

function kindOf({ type, enum: values, oneOf }) {
  if (type === "array") return "many";
  if (values || oneOf) return "one";
  return { boolean: "yes", number: "number", integer: "number" }[type] ?? "text";
}

function choicesOf({ items, enum: values, oneOf }) {
  const titled = [oneOf, items?.anyOf, items?.oneOf].find(Array.isArray);
  if (titled) return titled.map(({ const: value, title }) => ({ value, title: title ?? value }));
  return [values, items?.enum].find(Array.isArray)?.map((value) => ({ value, title: value })) ?? [];
}

/** What may also be nothing can be left out. @param {any} schema */
function withoutNull(schema) {
  const ways = Array.isArray(schema?.anyOf) ? schema.anyOf.filter((way) => way?.type !== "null") : [];
  return ways.length === 1 && ways.length < schema.anyOf.length ? { ...schema, anyOf: undefined, ...ways[0] } : schema;
}

/** Whether a form can show what a tool takes, and what the call has. @param {Field} given */
function expressible({ kind, schema, choices, default: value }) {
  if (schema.anyOf || schema.allOf || schema.$ref) return false;
  if (kind === "many" || kind === "one") {
    const chosen = kind === "many" ? (value ?? []) : value === undefined ? [] : [value];
    const known = choices.map((choice) => choice.value);
    return known.length > 0 && known.every(isText) && Array.isArray(chosen) && chosen.every((each) => known.includes(each));
  }
  const type = { yes: "boolean", number: "number", text: "string" }[kind];
  return (kind !== "text" || schema.type === "string") && (value === undefined || typeof value === type);
}

/** A box that is not ticked says no; what was not said stays so. */
const kindOfArgument = ({ kind, required, default: value }) => (kind === "yes" && !required && value === undefined ? "perhaps" : kind);

const isText = (value) => typeof value === "string";

const INPUTS = { email: "email", uri: "url", date: "date", "date-time": "datetime-local" };

/** @param {Field} field what an input element is told of it */
export function inputOf({ kind, schema }) {
  if (kind === "number") {
    return { type: "number", min: schema.minimum, max: schema.maximum, step: schema.type === "integer" ? 1 : "any" };
  }
  return { type: INPUTS[schema.format] ?? "text" }; // not how long: a browser would cut off what is pasted, and say nothing
}

const LONG = 300;

/** Whether a text needs room, or has lines that an input would lose. @param {Field} field */
export const isLong = ({ kind, schema, default: value }) =>
  kind === "json" || (kind === "text" && !INPUTS[schema.format] && (schema.maxLength > LONG || /\n/.test(value ?? "")));

/** What stands in a field at first: a moment as the browser's own field has it. @param {Field} field */
export function shownDefault({ kind, schema, default: value }) {
  if (kind === "json") return value === undefined ? "" : JSON.stringify(value, null, 2);
  if (value === undefined || schema.format !== "date-time") return value ?? "";
  const moment = new Date(value);
  return Number.isNaN(moment.getTime()) ? "" : new Date(moment - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** @param {Field[]} fields @param {FormData} data @returns {object} what is left empty, or is no value, is left out */
export function contentOf(fields, data) {
  const pairs = fields.map((each) => [each.name, valueOf(each, data)]);
  return Object.fromEntries(pairs.filter(([, value]) => value !== undefined));
}

/** @param {Field} field @param {FormData} data */
function valueOf({ name, kind, schema, required, default: before }, data) {
  const text = data.get(name) ?? "";
  if (kind === "yes") return data.has(name);
  if (kind === "many") return data.has(name) || required || before?.length ? data.getAll(name) : undefined;
  if (text === "") return kind === "text" && before === "" ? "" : undefined;
  if (kind === "number") return Number(text);
  if (kind === "perhaps") return text === "true";
  if (kind === "json") return read(text);
  if (schema.format !== "date-time") return text;
  const moment = new Date(text);
  return text === shownDefault({ kind, schema, default: before }) ? before : moment.toISOString(); // else its zone were lost
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @param {Field[]} fields @param {FormData} data @returns {Record<string, Fault>} by the names of the fields */
export function faultsOf(fields, data) {
  const pairs = fields.map((each) => [each.name, faultOf(each, valueOf(each, data), data.get(each.name) ?? "")]);
  return Object.fromEntries(pairs.filter(([, fault]) => fault));
}

/** @param {Field} field @param {any} value @param {string} text as it stands there @returns {Fault | null} */
function faultOf({ kind, schema, required }, value, text) {
  if (value === undefined && kind === "json" && text) return ["json"];
  if (value === undefined || (kind === "text" && value === "" && required)) return required ? ["required"] : null;
  if (kind === "text") return faultOfText(schema, value);
  if (kind === "number") return faultOfNumber(schema, value);
  if (kind !== "many") return null;
  if (value.length < (schema.minItems ?? 0)) return ["fewest", schema.minItems];
  return value.length > (schema.maxItems ?? Infinity) ? ["mostOf", schema.maxItems] : null;
}

const FORMATS = {
  email: (text) => /^[^@\s]{1,64}@[^@\s]{1,255}$/.test(text),
  uri: (text) => URL.canParse(text),
};

function faultOfText({ minLength = 0, maxLength = Infinity, format }, text) {
  const length = [...text].length;
  if (length < minLength) return ["short", minLength];
  if (length > maxLength) return ["long", maxLength];
  return Object.hasOwn(FORMATS, format ?? "") && !FORMATS[format](text) ? [format] : null;
}

function faultOfNumber({ type, minimum = -Infinity, maximum = Infinity }, value) {
  if (!Number.isFinite(value)) return ["number"];
  if (type === "integer" && !Number.isInteger(value)) return ["whole"];
  if (value < minimum) return ["least", minimum];
  return value > maximum ? ["most", maximum] : null;
}
