/** Markdown to blocks of safe HTML. Whatever a model, a tool or a server wrote, nothing of it runs or loads. */
import DOMPurify from "./vendor/dompurify.js";
import { Marked } from "./vendor/marked.js";
import { plain } from "./format.js";
import { strings } from "./strings.js";

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

const LOCAL_IMAGE = /^data:image\/(?:avif|gif|jpeg|png|webp);base64,/i; // an SVG is a document

const marked = new Marked({
  gfm: true,
  breaks: true,
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
 * @typedef {{kind: "html" | "code" | "table", key: string, html: () => string, text: string, lang: string}} Block
 * @param {string} source
 * @returns {Block[]}
 */
export function blocks(source) {
  const tokens = marked.lexer(plain(source));
  const links = JSON.stringify(tokens.links); // a definition at the end may change a link at the start
  return tokens.filter(({ type }) => type !== "space" && type !== "def").map((token) => block(token, links));
}

/** Code is told apart because it is shown as text and needs no HTML at all. @returns {Block} */
function block(token, links) {
  const kind = token.type === "code" || token.type === "table" ? token.type : "html";
  const html = () => DOMPurify.sanitize(marked.parser([token]), ALLOWED);
  return { kind, key: token.raw + links, html, text: token.text ?? "", lang: (token.lang ?? "").split(/\s/)[0] };
}

/** @param {string} text */
const escape = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
