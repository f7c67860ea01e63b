/**
 * `<mcp-chat>`: the chat in a page of anybody's who is allowed to show it. The one file that other origins load, so it imports nothing.
 *
 * Attributes, all of which may change at any time:
 * - `server-url`: where the chat is; without it, where this script came from.
 * - `title`: what a screen reader calls it.
 * - `theme`: `light` or `dark`; without it, what the reader's system says.
 * - `lang`: a language tag; without it, what the reader's browser says.
 *
 * `element.token = "..."` signs in with an access token, which goes to the chat's own origin and is kept by nobody here.
 * The event `mcp-chat-sign-in` comes when the chat wants one: at first, and when the last one has expired.
 */
const HERE = new URL("../", import.meta.url).href;
const LOOK = ["theme", "lang"];

const STYLE = `
  :host { display: block; height: 40rem; }
  :host([hidden]) { display: none; }
  iframe { display: block; width: 100%; height: 100%; border: 0; }
`;

class McpChat extends HTMLElement {
  static observedAttributes = ["server-url", "title", ...LOOK];

  #frame = document.createElement("iframe");
  #token = "";
  #ready = false;
  #asked = false;
  #hear = (event) => this.#take(event);

  constructor() {
    super();
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    root.adoptedStyleSheets = [style];
    this.#frame.allow = "clipboard-write";
    this.#frame.referrerPolicy = "no-referrer";
    root.append(this.#frame);
  }

  connectedCallback() {
    addEventListener("message", this.#hear);
    this.#open();
  }

  disconnectedCallback() {
    removeEventListener("message", this.#hear);
  }

  attributeChangedCallback(name) {
    this.#frame.title = this.title || "Chat";
    if (LOOK.includes(name)) this.#tell({ type: "mcp-chat-look", ...this.#look() });
    if (name === "server-url" && this.isConnected) this.#open();
  }

  /** @param {string} token */
  set token(token) {
    this.#token = String(token ?? "");
    if (this.#token && this.#asked) this.#signIn();
  }

  focus() {
    this.#frame.focus();
  }

  /** The chat's address: a folder, as all that it asks for is relative to it. */
  get #home() {
    const url = new URL(this.getAttribute("server-url") || HERE, document.baseURI);
    if (!url.pathname.endsWith("/")) url.pathname += "/";
    return url;
  }

  #open() {
    const url = this.#home;
    for (const [name, value] of Object.entries(this.#look())) if (value) url.searchParams.set(name, value);
    this.#frame.title = this.title || "Chat";
    this.#ready = this.#asked = false;
    if (["https:", "http:"].includes(url.protocol)) this.#frame.src = url.href;
  }

  #look() {
    return Object.fromEntries(LOOK.map((name) => [name, this.getAttribute(name) ?? ""]));
  }

  /** To the chat's own origin, whatever the frame shows by now; before the chat is there, to nobody. */
  #tell(message) {
    if (this.#ready) this.#frame.contentWindow?.postMessage(message, this.#home.origin);
  }

  #take({ source, origin, data }) {
    if (!source || source !== this.#frame.contentWindow || origin !== this.#home.origin) return;
    if (data?.type === "mcp-chat-ready") {
      this.#ready = true;
      this.#tell({ type: "mcp-chat-look", ...this.#look() });
    }
    if (data?.type === "mcp-chat-signed-in") this.#asked = false;
    if (data?.type === "mcp-chat-sign-in") {
      this.#asked = true;
      if (this.#token) this.#signIn();
      else this.dispatchEvent(new CustomEvent("mcp-chat-sign-in", { bubbles: true, composed: true }));
    }
  }

  /** A token is given once: if the chat asks again, it has expired. */
  #signIn() {
    this.#tell({ type: "mcp-chat-token", token: this.#token });
    this.#token = "";
  }
}

customElements.get("mcp-chat") ?? customElements.define("mcp-chat", McpChat);
