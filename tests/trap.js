/* Put into a page before its own scripts: counts what hostile Markdown achieved. */
(() => {
  const alarms = [];
  Object.defineProperty(window, "alarms", { value: alarms });
  Object.defineProperty(window, "pwned", { value: () => alarms.push("a script ran") });
  addEventListener("securitypolicyviolation", (event) =>
    alarms.push(`${event.effectiveDirective} stopped ${event.blockedURI} ${event.sample}`));

  const ELEMENTS = new Set(
    "A B BLOCKQUOTE BR CODE DEL EM H1 H2 H3 H4 H5 H6 HR I IMG LI OL P PRE STRONG TABLE TBODY TD TH THEAD TR UL".split(" "));
  const ATTRIBUTES = new Set("align alt data-formula data-leads-to href rel src start target title".split(" "));

  const DRAWN = new Set(
    `SPAN SVG PATH LINE MATH SEMANTICS ANNOTATION MROW MI MO MN MS MTEXT MSPACE MFRAC MSQRT MROOT MSUB MSUP MSUBSUP MUNDER MOVER
    MUNDEROVER MTABLE MTR MTD MLABELEDTR MSTYLE MPADDED MPHANTOM MENCLOSE MERROR MGLYPH`.split(/\s+/));
  const LOADS = /^(on|src|href|xlink|action|formaction|id$|name$)|url\(/i;

  /** What there is in rendered Markdown that must not be there. */
  window.faults = (root) => [...root.querySelectorAll(".block *, .code code *")].flatMap((node) =>
    [...(node.closest(".formula, .code code") ? wrongWhenDrawn(node) : wrong(node))].map((what) => `${what}: ${node.outerHTML.slice(0, 300)}`));

  /** Formulas and coloured code are drawn node by node, and lead nowhere. */
  function* wrongWhenDrawn(node) {
    if (!DRAWN.has(node.nodeName.toUpperCase())) yield "an element";
    for (const { name, value } of node.attributes) if (LOADS.test(name) || /url\(|javascript:/i.test(value)) yield `an attribute ${name}`;
  }

  function* wrong(node) {
    if (!ELEMENTS.has(node.nodeName)) yield "an element";
    for (const { name } of node.attributes) if (!ATTRIBUTES.has(name)) yield `an attribute ${name}`;
    if (node.nodeName === "IMG" && !/^data:image\/(png|gif);base64,/i.test(node.getAttribute("src"))) yield "an image from elsewhere";
    if (node.nodeName === "A" && node.hasAttribute("href")) yield* wrongWithLink(node);
  }

  function* wrongWithLink(link) {
    if (!URL.canParse(link.href)) return yield "a link that is no address";
    const { protocol, host, pathname } = new URL(link.href);
    if (!["http:", "https:", "mailto:"].includes(protocol)) yield "a scheme";
    if (!/noopener/.test(link.rel) || !/noreferrer/.test(link.rel)) yield "a link with a way back";
    if (link.target !== "_blank") yield "a link that leads away from the chat";
    if (link.title !== link.href) yield "a link without its address";
    const written = link.textContent.trim().toLowerCase().replace(/^(https?:\/\/|mailto:)/, "");
    const after = getComputedStyle(link, "::after").content;
    const told = link.isConnected && link.closest(".prose") ? after.includes(host || pathname) : link.dataset.leadsTo;
    if (!told && written.split(/[/?#]/)[0] !== (host || pathname)) yield "a link that does not say where it leads";
  }

  /** Show each beginning of each text, as a stream would; return what was wrong with any. */
  window.stream = async (texts) => {
    const { blocks, reader } = await import("/web/markdown.js");
    const place = document.body.appendChild(document.createElement("div"));
    const found = new Set();
    const show = (text, all) => {
      place.replaceChildren(...all.filter(({ kind }) => kind !== "code").map(shown));
      for (const fault of faults(place)) found.add(`${JSON.stringify(text)}: ${fault}`);
    };
    const look = (all) => JSON.stringify(all.map(({ kind, key, text, lang }) => [kind, key, text, lang]));
    for (const text of texts) {
      const [read, readOn] = [reader(), reader()];
      for (let end = 1; end <= text.length; end++) {
        const [part, whole] = [text.slice(0, end), blocks(text.slice(0, end))];
        if (look(read(part)) !== look(whole)) found.add(`${JSON.stringify(part)}: read on, it is another text`);
        show(part, whole);
        show(part, readOn(part, true));
      }
    }
    await new Promise((resume) => setTimeout(resume, 300)); // for what would load, run or take the focus later
    return [...found];
  };

  function shown(block) {
    const one = document.createElement("div");
    one.className = "block";
    one.innerHTML = block.html();
    return one;
  }
})();
