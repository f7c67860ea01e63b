/** Markdown to blocks of safe HTML. Whatever a model, a tool or a server wrote, nothing of it runs or loads. */
import DOMPurify from "./vendor/dompurify.js";
import { Lexer, Marked } from "./vendor/marked.js";
import { plain } from "./format.js";
import { formulas, MARKS } from "./formula.js";
import { strings } from "./strings.js";
import { mended } from "./unfinished.js";

const TAGS = "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i img li ol p pre strong table tbody td th thead tr ul";

const ALLOWED = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["align", "alt", "href", "rel", "src", "start", "target", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i, // relative ones would lead into this very site
  ADD_URI_SAFE_ATTR: ["align", "start"], // or their values would be held against the line above
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true, // the page's policy takes no HTML but the sanitiser's
};

const ITEMS = 40;

const LOCAL_IMAGE = /^data:image\/(?:avif|gif|jpeg|png|webp);base64,/i; // an SVG is a document

/** @param {string} text */
const escape = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: formulas(escape),
  renderer: {
    html: ({ text }) => escape(text), // HTML is shown as what it is: text
    image: ({ href, text }) =>
      LOCAL_IMAGE.test(href)
        ? `<img src="${escape(href)}" alt="${escape(text)}">`
        : `<a href="${escape(href)}">${escape(strings.message.image(text))}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A" && !URL.canParse(node.href)) node.removeAttribute("href");
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
    reveal(node);
  }
  if (node.nodeName === "CODE" && Object.hasOwn(MARKS, node.title)) {
    node.dataset.formula = MARKS[node.title];
    node.removeAttribute("title");
  }
  if (node.nodeName === "IMG" && !LOCAL_IMAGE.test(node.getAttribute("src") ?? "")) node.remove();
});

/** Say where a link leads, unless its text already does and says nothing before it. @param {HTMLAnchorElement} link */
function reveal(link) {
  const { host, pathname } = new URL(link.href);
  const place = host || pathname;
  const [, said] = /^(?:https?:\/\/|mailto:)?([^/?#]*)/i.exec(link.textContent.trim());
  link.title = link.href;
  if (said.toLowerCase() !== place) link.dataset.leadsTo = place;
}

/**
 * A block whose key is the same looks the same; `html` is a function, so that only the others are rendered.
 * @typedef {{kind: "html" | "code" | "table", goesOn: boolean, key: string, html: () => string, text: string, lang: string}} Block
 * @param {string} source
 * @returns {Block[]}
 */
export const blocks = (source) => reader()(source);

/**
 * Read a text that grows, each time from the last two blocks on: those before cannot change any more.
 * @returns {(source: string, growing?: boolean) => Block[]} the same objects for the blocks that are the same
 */
export function reader() {
  let [head, finished, defined, known] = ["", [], {}, "{}"];
  const begin = () => ([head, finished, defined] = ["", [], {}]);
  return (source, growing = false) => {
    const text = plain(source.replace(/\r\n?/g, "\n"));
    if (!text.startsWith(head)) begin();
    let tokens = lexed(text.slice(head.length), defined);
    if (JSON.stringify(tokens.links) !== known) {
      begin(); // a definition at the end may change a link at the start
      tokens = lexed(text, defined);
      known = JSON.stringify(tokens.links);
    }
    const settled = tokens.slice(0, firstOpen(tokens));
    const raw = settled.map((token) => token.raw).join("");
    if (raw && text.startsWith(raw, head.length)) {
      finished = [...finished, ...shown(settled, known)];
      defined = { ...definitions(settled), ...defined };
      head += raw;
      tokens = tokens.slice(settled.length);
    }
    const tail = text.slice(head.length);
    const rest = growing ? mended(tail) : tail;
    return [...finished, ...shown(rest === tail ? tokens : lexed(rest, defined), known)];
  };
}

/** The addresses that these blocks define for links, the first of each name. */
function definitions(tokens) {
  const found = {};
  marked.walkTokens(tokens, ({ type, tag, href, title }) => type === "def" && (found[tag] ??= { href, title }));
  return found;
}

/** @returns {object[] & {links: object}} */
function lexed(text, links) {
  const lexer = new Lexer(marked.defaults);
  Object.assign(lexer.tokens.links, links);
  return lexer.lex(text);
}

/** Where the blocks begin that what comes may still change: the last two, and what no empty line keeps apart from them. */
function firstOpen(tokens) {
  const places = tokens.flatMap(({ type }, place) => (type === "space" ? [] : [place]));
  return places.slice(0, -1).findLast((place) => place > 0 && /\n[ \t]*\n$/.test(tokens[place - 1].raw)) ?? 0;
}

const shown = (tokens, links) =>
  tokens.filter(({ type }) => type !== "space" && type !== "def").flatMap(inParts).map((token) => block(token, links));

/** A long list in lists of some items each, so that not all of it is drawn again with each word. */
function inParts(token) {
  if (token.type !== "list" || token.items.length <= ITEMS) return [token];
  const parts = [];
  for (let from = 0; from < token.items.length; from += ITEMS) {
    const items = token.items.slice(from, from + ITEMS);
    const raw = items.map((item) => item.raw).join("");
    parts.push({ ...token, items, raw: `${from} ${raw}`, start: token.ordered ? (token.start || 1) + from : token.start, goesOn: from > 0 });
  }
  return parts;
}

/** Code is told apart because it is shown as text and needs no HTML at all. @returns {Block} */
function block(token, links) {
  const kind = token.type === "code" || token.type === "table" ? token.type : "html";
  const html = () => DOMPurify.sanitize(marked.parser([token]), ALLOWED);
  return { kind, goesOn: token.goesOn ?? false, key: token.raw + links, html, text: token.text ?? "", lang: (token.lang ?? "").split(/\s/)[0] };
}
