/** Code in colours: highlight.js and the grammar of one language, fetched when there is such code. */

const LANGUAGES = {
  bash: "sh zsh", c: "h", cpp: "cc c++ hpp", csharp: "cs c#", css: "", diff: "patch", dockerfile: "docker", go: "golang", graphql: "gql",
  ini: "toml", java: "", javascript: "js jsx mjs cjs node", json: "jsonc json5 jsonl", kotlin: "kt kts", lua: "", makefile: "mk make",
  markdown: "md", nginx: "", perl: "pl pm", php: "", powershell: "pwsh ps1", python: "py python3", r: "", ruby: "rb", rust: "rs", scala: "",
  shell: "console shellsession", sql: "postgresql mysql sqlite", swift: "", typescript: "ts tsx mts cts", xml: "html xhtml svg rss", yaml: "yml",
};
const NAMES = new Map(Object.entries(LANGUAGES).flatMap(([name, others]) => [name, ...others.split(" ")].map((each) => [each, name])));
NAMES.delete("");

/** More than that would hold the page up. */
const MOST = 30_000;

const PIECES = /<span class="hljs-([a-z_-]+)[^"]*">|<\/span>|[^<]+/g;
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'" };

/** @param {string} lang as it stands at the code @returns {boolean} */
export const isKnown = (lang, text) => NAMES.has(lang.toLowerCase()) && text.length <= MOST;

/**
 * @typedef {{text: string, kind: string}} Piece `kind` is empty where there is no colour
 * @param {string} text
 * @param {string} lang a known one
 * @returns {Promise<Piece[]>}
 */
export async function coloured(text, lang) {
  const name = NAMES.get(lang.toLowerCase());
  const [{ default: core }, { default: grammar }] = await Promise.all([
    import("./vendor/highlight/core.js"), import(`./vendor/highlight/${name}.js`),
  ]);
  core.registerLanguage(name, grammar);
  return pieces(core.highlight(text, { language: name, ignoreIllegals: true }).value);
}

/** Highlighted code as texts and what they are: its HTML is never used as such. @param {string} html @returns {Piece[]} */
function pieces(html) {
  const [found, kinds] = [[], []];
  for (const [piece, kind] of html.matchAll(PIECES)) {
    if (kind) kinds.push(kind);
    else if (piece === "</span>") kinds.pop();
    else found.push({ text: piece.replace(/&(?:amp|lt|gt|quot|#x27);/g, (each) => ENTITIES[each]), kind: kinds.at(-1) ?? "" });
  }
  return found;
}
