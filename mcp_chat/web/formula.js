/** Formulas in Markdown: found here, drawn by KaTeX, which is fetched once there is one. */
import { stylesheet } from "./stylesheet.js";

/** A mark that only the renderer below can make: HTML in Markdown is text. */
export const MARKS = { "a formula": "inline", "a formula on its own": "display" };

const MAX_LENGTH = 4000;
const ALONE = /^ {0,3}(?:\$\$((?:(?!\n[ \t]*\n|\$\$)[^])+)\$\$|\\\[((?:(?!\n[ \t]*\n|\\\])[^])+)\\\])[ \t]*(?:\n+|$)/;
const INLINE = /^(?:\$\$((?:\\.|[^\\$])+)\$\$|\\\(((?:(?!\\\))[^\n])+)\\\)|\$(?!\s)((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\w))/;

/** @param {string} text of Markdown @returns {object | undefined} */
function alone(text) {
  const [raw, ...found] = ALONE.exec(text) ?? [];
  return raw && raw.length <= MAX_LENGTH ? { type: "formulaAlone", raw, text: found.find(Boolean).trim() } : undefined;
}

/** @param {string} text @returns {object | undefined} */
function inline(text) {
  const [raw, ...found] = INLINE.exec(text) ?? [];
  if (!raw || raw.length > MAX_LENGTH) return undefined;
  return { type: "formula", raw, text: found.find(Boolean), display: raw.startsWith("$$") };
}

/** Where one may begin. @param {RegExp} begin */
const first = (begin) => (text) => {
  const found = begin.exec(text);
  return found ? found.index + found[0].length : undefined;
};

/** What the Markdown reader has to know. @param {(text: string) => string} escape */
export const formulas = (escape) => [
  {
    name: "formulaAlone",
    level: "block",
    start: first(/\n(?= {0,3}(?:\$\$|\\\[))/),
    tokenizer: alone,
    renderer: ({ text }) => `<p><code title="a formula on its own">${escape(text)}</code></p>`,
  },
  {
    name: "formula",
    level: "inline",
    start: first(/(?=\$|\\\()/),
    tokenizer: inline,
    renderer: ({ text, display }) => `<code title="${display ? "a formula on its own" : "a formula"}">${escape(text)}</code>`,
  },
];

const SAFE = { throwOnError: true, errorColor: "currentColor", trust: false, strict: "ignore", output: "htmlAndMathml", maxSize: 40, maxExpand: 500 };
const KEPT = 500;

let katex = null;
let asked = null;

/** What was drawn before: a text that streams in is drawn many times. @type {Map<string, Node>} */
const drawn = new Map();

/** Draw all formulas of a piece of the page: at once, if KaTeX is there. @param {Element} root */
export function drawFormulas(root) {
  const places = root.querySelectorAll("[data-formula]");
  if (!places.length) return;
  if (katex) places.forEach(draw);
  else fetchKatex().then(() => root.isConnected && drawFormulas(root), () => {}); // without it, the text stays
}

/** Its style sheet must be there first: without it, a formula shows twice. */
const fetchKatex = () =>
  (asked ??= Promise.all([import("./vendor/katex/katex.js"), stylesheet("vendor/katex/katex.css")]).then(
    ([module]) => (katex = module.default),
    (error) => {
      asked = null;
      throw error;
    },
  ));

/** @param {HTMLElement} place */
function draw(place) {
  const { formula } = place.dataset;
  const key = `${formula} ${place.textContent}`;
  if (!drawn.has(key)) keep(key, formulaOf(place.textContent, formula === "display"));
  const found = drawn.get(key);
  if (found) place.replaceWith(found.cloneNode(true));
  else delete place.dataset.formula; // it cannot be read: its text says more than a message would
}

function keep(key, node) {
  if (drawn.size >= KEPT) drawn.clear();
  drawn.set(key, node);
}

/** @param {string} text @returns {HTMLElement | null} */
function formulaOf(text, displayMode) {
  try {
    const tree = katex.__renderToDomTree(text, { ...SAFE, displayMode });
    const node = Object.assign(document.createElement("span"), { className: displayMode ? "formula alone" : "formula" });
    node.append(withoutStyles(tree).toNode());
    for (const picture of node.querySelectorAll("svg[width$=em]")) picture.style.width = picture.getAttribute("width");
    return node;
  } catch {
    return null;
  }
}

/** The page's policy takes no style attributes; KaTeX sets nearly all styles in another way. */
function withoutStyles(tree) {
  delete tree.attributes?.style;
  tree.children?.forEach(withoutStyles);
  return tree;
}
