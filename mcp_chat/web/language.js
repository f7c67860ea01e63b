/** The reader's language: which it is, and its words, of which only those in use are fetched. */
import { formatsOf } from "./intl.js";
import { signal } from "./vendor/signals.js";

/** Those that the page speaks, each by the name that its own readers know. */
export const LANGUAGES = { en: "English", de: "Deutsch", ar: "العربية" };

const RIGHT_TO_LEFT = new Set(["ar"]);
const KEY = "mcp-chat:language";

/** @type {{value: {language: keyof typeof LANGUAGES, locale: string, words: object, formats: import("./intl.js").Formats}}} */
const spoken = signal(null);

export const language = () => spoken.value.language;
export const locale = () => spoken.value.locale;
export const formats = () => spoken.value.formats;
export const words = () => spoken.value.words;

/** The language and the place of a reader. Pure. @param {readonly string[]} wanted tags, the best first @param {string} [chosen] */
export function tongueOf(wanted, chosen = "") {
  const known = Object.hasOwn(LANGUAGES, chosen) ? [chosen] : Object.keys(LANGUAGES);
  const locale = wanted.find((tag) => known.includes(languageOf(tag))) ?? (known.length === 1 ? chosen : "en");
  return { language: languageOf(locale), locale };
}

/** @param {string} tag */
const languageOf = (tag) => tag.split("-")[0].toLowerCase();

/** What the page wants that shows the chat in a frame. */
let around = new URLSearchParams(location.search).get("lang") ?? "";

const wanted = () => [around, ...navigator.languages].filter(isTag);

/** What is none, in a link say, must not keep the page from speaking at all. @param {string} text */
function isTag(text) {
  try {
    return Intl.getCanonicalLocales(text).length > 0;
  } catch {
    return false;
  }
}

/** Speak what the reader has chosen here, or else what the page around or their browser asks for. */
export const begin = () => speak(tongueOf(wanted(), chosen()));

/** The page around wants another language. @param {string} lang a tag, or empty for none */
export function ask(lang) {
  if (lang === around) return;
  around = lang;
  begin();
}

/** Speak another language from now on, in every tab. @param {string} name */
export function choose(name) {
  try {
    localStorage.setItem(KEY, name);
  } catch {
    /* a browser may forbid storage: then the choice holds until the page is left */
  }
  return speak(tongueOf(wanted(), name));
}

/** @param {{language: string, locale: string}} tongue */
async function speak({ language: name, locale: place }) {
  const { wordsIn } = await import(`./languages/${name}.js`);
  const used = formatsOf(place);
  spoken.value = { language: name, locale: place, formats: used, words: wordsIn(used) };
  Object.assign(document.documentElement, { lang: name, dir: RIGHT_TO_LEFT.has(name) ? "rtl" : "ltr" });
}

function chosen() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

addEventListener("storage", ({ key }) => key === KEY && begin());
