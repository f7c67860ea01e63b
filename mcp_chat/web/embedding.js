/**
 * What a page that shows the chat in a frame may say to it, and hear of it. Which pages may show it at all is the
 * browser's to see to, by the `frame-ancestors` of our policy: so whoever is our parent is one that the operator lists.
 */
import { ask } from "./language.js";
import { mode, signIn, user } from "./principal.js";
import { dismiss, report } from "./problem.js";
import { effect } from "./vendor/signals.js";

const THEMES = ["light", "dark"];
const MOST = 16_384;
const MOST_TAG = 64;

/** Look as the address asks for; then listen to the parent, and tell it when somebody must sign in. */
export function embed() {
  const asked = new URLSearchParams(location.search);
  look({ theme: asked.get("theme") });
  if (window.parent === window) return;
  addEventListener("message", ({ source, data }) => source === window.parent && hear(data));
  say("mcp-chat-ready");
  effect(() => {
    if (mode.value === "jwt" && user.value !== undefined) say(user.value ? "mcp-chat-signed-in" : "mcp-chat-sign-in");
  });
}

/** Nothing in it is anybody's secret, and who may be our parent is settled. @param {string} type */
const say = (type) => window.parent.postMessage({ type }, "*");

/** @param {any} data what the parent says, whatever that may be */
function hear(data) {
  if (data?.type === "mcp-chat-look") look(data);
  if (data?.type === "mcp-chat-token" && isToken(data.token) && mode.value === "jwt") signIn(data.token).then(dismiss, report);
}

/** @param {unknown} token */
const isToken = (token) => typeof token === "string" && token.length > 0 && token.length <= MOST;

/** @param {{theme?: unknown, lang?: unknown}} wanted */
function look({ theme, lang }) {
  const { dataset } = document.documentElement;
  if (THEMES.includes(theme)) dataset.theme = theme;
  else delete dataset.theme;
  if (typeof lang === "string" && lang.length < MOST_TAG) ask(lang);
}
