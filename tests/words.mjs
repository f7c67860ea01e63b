// Prints what each language of the page has: its words, with what they are, and the plural forms that they use.
import { formatsOf } from "../mcp_chat/web/intl.js";

const folder = new URL("../mcp_chat/web/languages/", import.meta.url);

/** What any of them can be made of: a text, a number, a day, or prices. */
const ANYTHING = Object.assign(new Date(0), { input: 1, output: 2, replace: String });

/** @param {string} language */
async function told(language) {
  const { wordsIn } = await import(new URL(`${language}.js`, folder));
  const counted = [];
  const plural = (count, forms) => (counted.push(Object.keys(forms)), forms.other);
  const words = [...leaves(wordsIn({ ...formatsOf(language), plural }))];
  const said = words.map(([, value]) => (typeof value === "function" ? value(...Array(value.length).fill(ANYTHING)) : value));
  return {
    words: Object.fromEntries(words.map(([name, value]) => [name, typeof value === "function" ? value.length : typeof value])),
    empty: words.filter((_, index) => typeof said[index] !== "string" || !said[index]).map(([name]) => name),
    categories: new Intl.PluralRules(language).resolvedOptions().pluralCategories,
    counted,
  };
}

function* leaves(value, path = "") {
  if (value === null || typeof value !== "object") return yield [path, value];
  for (const [name, each] of Object.entries(value)) yield* leaves(each, path ? `${path}.${name}` : name);
}

const languages = process.argv.slice(2);
console.log(JSON.stringify(Object.fromEntries(await Promise.all(languages.map(async (each) => [each, await told(each)])))));
