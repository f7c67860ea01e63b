/** What the connected servers offer besides tools: lists to choose from, what is filled in, and how an argument could go on. */
import { get, post } from "./api.js";
import { user } from "./principal.js";
import { filled, prompt } from "./prompts.js";
import { chosen, template } from "./resources.js";
import { offering } from "./servers.js";
import { expand, variablesOf } from "./template.js";
import { computed, signal } from "./vendor/signals.js";

const AT_ONCE = 4; // the chat asks for one user no more than a few things beside each other

/** @typedef {{name: string, title: string, description: string, required?: boolean}} Argument */

/** @param {string} alias @param {string} what */
const pathOf = (alias, what) => `llmchat/servers/${encodeURIComponent(alias)}/${what}`;

/**
 * A list that is asked for anew whenever somebody wants to choose from it; meanwhile the last one is shown.
 * @template Item
 * @param {"prompts" | "resources"} kind
 * @param {(alias: string) => Promise<Item[]>} read
 */
function listing(kind, read) {
  const found = signal({ of: "", items: [], failed: [], busy: false });
  const mine = computed(() => (found.value.of === user.value?.id ? found.value : { items: [], failed: [], busy: false }));
  async function load() {
    const of = user.value.id;
    found.value = { ...mine.value, of, busy: true };
    const [items, failed] = await readAll(offering(kind).map(({ alias }) => alias), read);
    if (of === user.value?.id) found.value = { of, items, failed, busy: false };
  }
  return { shown: mine, load };
}

/** Ask them all, a few at a time. @param {string[]} aliases @returns {Promise<[object[], string[]]>} what there is, and who did not answer */
async function readAll(aliases, read) {
  const [items, failed] = [[], []];
  for (let from = 0; from < aliases.length; from += AT_ONCE) {
    const some = aliases.slice(from, from + AT_ONCE);
    const answers = await Promise.allSettled(some.map(read));
    answers.forEach(({ status, value }, index) => (status === "fulfilled" ? items.push(...value) : failed.push(some[index])));
  }
  return [items, failed];
}

/** @param {string} alias @param {string} what @param {string} [as] what the answer calls it */
const list = (alias, what, as = what) =>
  get(pathOf(alias, what)).then((answer) => (answer[as] ?? []).map((each) => ({ ...each, server: alias })));

export const prompts = listing("prompts", (alias) => list(alias, "prompts"));

export const resources = listing("resources", async (alias) => {
  const [all, templates] = await Promise.all([list(alias, "resources"), list(alias, "resource-templates", "templates").catch(() => [])]);
  return [...all, ...templates];
});

/** @param {import("./prompts.js").Prompt} of */
export const choosePrompt = (of) => (prompt.value = { ...of, values: {} });

/** @param {string} name @param {string} value */
export const fillIn = (name, value) => (prompt.value = { ...prompt.value, values: { ...prompt.value.values, [name]: value } });

/** @param {import("./resources.js").Template} of */
export const begin = (of) => (template.value = { ...of, fields: variablesOf(of.template).map(fieldOf), values: {}, uri: expand(of.template, {}) });

/** @param {string} name @returns {Argument} */
const fieldOf = (name) => ({ name, title: "", description: "", required: true });

/** @param {string} name @param {string} value */
export function fillInTemplate(name, value) {
  const values = { ...template.value.values, [name]: value };
  template.value = { ...template.value, values, uri: expand(template.value.template, values) };
}

/** @param {import("./resources.js").Resource} resource */
export const detach = (resource) => (chosen.value = chosen.value.filter((each) => each !== resource));

/**
 * How an argument could go on, as its server says; nothing, if that cannot say.
 * @param {string} alias @param {{prompt: string} | {template: string}} of @param {string} argument @param {string} value
 * @param {Record<string, string>} context what was filled in already
 * @returns {Promise<string[]>}
 */
async function complete(alias, of, argument, value, context) {
  if (!offering("completions").some((server) => server.alias === alias)) return [];
  const { values } = await post(pathOf(alias, "complete"), { ...of, argument, value, context }).catch(() => ({}));
  return values ?? [];
}

/** @param {string} name @param {string} value @returns {Promise<string[]>} */
export const completePrompt = (name, value) => complete(prompt.value.server, { prompt: prompt.value.name }, name, value, filled(prompt.value));

/** @param {string} name @param {string} value @returns {Promise<string[]>} */
export const completeTemplate = (name, value) =>
  complete(template.value.server, { template: template.value.template }, name, value, template.value.values);
