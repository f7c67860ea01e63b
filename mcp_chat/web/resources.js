/** The servers' resources that go with the next message. */
import { signal } from "./vendor/signals.js";

export const MOST_RESOURCES = 8;

/**
 * @typedef {{server: string, uri: string, name: string, title?: string, media_type?: string}} Resource
 * @typedef {{server: string, template: string, name: string, title: string, description: string, media_type: string}} Template
 * @type {{value: Resource[]}}
 */
export const chosen = signal([]);

/**
 * The template that is being filled in: its fields, what stands in them, and the URI that this makes.
 * @type {{value: (Template & {fields: import("./offers.js").Argument[], values: Record<string, string>, uri: string}) | null}}
 */
export const template = signal(null);

/** @param {Resource} resource @returns {boolean} whether there was room for it */
export function attach({ server, uri, name, title, media_type }) {
  const others = chosen.value.filter((each) => each.server !== server || each.uri !== uri);
  if (others.length >= MOST_RESOURCES) return false;
  chosen.value = [...others, { server, uri, name, title, media_type }];
  return true;
}

/** Whether the template has a field that is empty. */
export const unfilled = () => Boolean(template.value?.fields.some(({ name }) => !template.value.values[name]));

/** Attach what the template stands for now. @returns {boolean} whether there was room for it */
export function attachTemplate() {
  const { uri, server, media_type } = template.value;
  template.value = null;
  return attach({ server, uri, name: uri, media_type });
}
