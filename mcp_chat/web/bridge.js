/**
 * What an app and the chat say to each other: JSON-RPC over messages between windows. Nothing that an app
 * says is believed: who says it, how often and in which form is checked before anything is done.
 *
 * @typedef {object} Host what the chat does for an app
 * @property {(name: string, args: object) => Promise<object>} call
 * @property {(uri: string) => Promise<object>} read
 * @property {(url: string) => Promise<boolean>} link whether the user opened it
 * @property {(text: string) => void} message
 * @property {(height: number) => void} resize
 * @property {() => void} flooded
 */
import { locale } from "./language.js";
import { effect } from "./vendor/signals.js";

const VERSION = "2026-01-26";
const [TALK, NOISE] = [{ most: 120, perSecond: 60 }, { most: 20, perSecond: 5 }];
const MOST_CALLS = 4;
const MOST_TEXT = 8000;
const MOST_URL = 2048;

/** Pixels of an app, before it scrolls within itself. */
export const MOST_HEIGHT = 640;

/**
 * @param {HTMLIFrameElement} frame the sandbox
 * @param {string} origin the sandbox's
 * @param {{html: string, input: object, result: object}} app
 * @param {Host} host
 * @returns {() => void} ends it
 */
export function connectApp(frame, origin, app, host) {
  const send = (message) => frame.contentWindow?.postMessage({ jsonrpc: "2.0", ...message }, origin);
  const tell = (method, params) => send({ method, params });
  const [talk, noise] = [bucket(TALK), bucket(NOISE)];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let [begun, ready, calls] = [false, false, 0];

  const requests = {
    "ui/initialize": () => welcome(frame, dark.matches),
    ping: () => ({}),
    "tools/call": ({ name, arguments: args }) => counted(() => host.call(text(name), plainObject(args ?? {}))),
    "resources/read": ({ uri }) => counted(() => host.read(text(uri))),
    "ui/open-link": async ({ url }) => ((await host.link(webAddress(url))) ? {} : fail(-32000, "The user did not open it.")),
    "ui/message": ({ content }) => (host.message(textOf(content)), {}),
    "ui/request-display-mode": () => ({ mode: "inline" }),
  };
  const notifications = {
    "ui/notifications/sandbox-proxy-ready": () => {
      if (begun) return;
      begun = true;
      tell("ui/notifications/sandbox-resource-ready", { html: app.html });
    },
    "ui/notifications/sandbox-flooded": () => host.flooded(),
    "ui/notifications/initialized": () => {
      if (ready) return;
      ready = true;
      tell("ui/notifications/tool-input", { arguments: app.input });
      tell("ui/notifications/tool-result", app.result);
    },
    "ui/notifications/size-changed": ({ height }) => Number.isFinite(height) && host.resize(height),
  };

  async function counted(action) {
    if (calls >= MOST_CALLS) return fail(-32000, "Too many calls at once.");
    calls++;
    try {
      return await action();
    } finally {
      calls--;
    }
  }

  async function answer({ id, method, params }) {
    try {
      const request = Object.hasOwn(requests, method) ? requests[method] : fail(-32601, "This is not possible here.");
      send({ id, result: await request(plainObject(params ?? {})) });
    } catch (error) {
      send({ id, error: { code: error.code ?? -32000, message: String(error.message).slice(0, 500) } });
    }
  }

  function take(message) {
    if (message?.jsonrpc !== "2.0" || typeof message.method !== "string") return;
    if (["string", "number"].includes(typeof message.id)) answer(message);
    else if (Object.hasOwn(notifications, message.method)) notifications[message.method](message.params ?? {});
  }

  /** What comes from elsewhere is not even looked at; an app that tries it too often is stopped. */
  function hear(event) {
    const own = frame.contentWindow;
    if (event.source === own && event.origin === origin) talk() ? take(event.data) : host.flooded();
    else if (own && within(event.source, own) && !noise()) host.flooded();
  }
  const change = (context) => ready && tell("ui/notifications/host-context-changed", context);
  const recolour = () => change({ theme: theme(dark.matches) });
  const hush = effect(() => void change({ locale: locale() }));

  addEventListener("message", hear);
  dark.addEventListener("change", recolour);
  return () => {
    hush();
    removeEventListener("message", hear);
    dark.removeEventListener("change", recolour);
    if (ready) send({ id: "teardown", method: "ui/resource-teardown", params: { reason: "closed" } });
  };
}

/** What the page that shows the chat wants, or else the system. @param {boolean} dark */
const theme = (dark) => document.documentElement.dataset.theme ?? (dark ? "dark" : "light");

function welcome(frame, dark) {
  return {
    protocolVersion: VERSION,
    hostInfo: { name: "mcp-chat", version: "1" },
    hostCapabilities: { openLinks: {}, serverTools: {}, serverResources: {} },
    hostContext: {
      theme: theme(dark),
      displayMode: "inline",
      availableDisplayModes: ["inline"],
      containerDimensions: { width: frame.clientWidth, maxHeight: MOST_HEIGHT },
      locale: locale(),
      timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      platform: "web",
    },
  };
}

/** So many at once, and then so many in each second. */
function bucket({ most, perSecond }) {
  let [left, since] = [most, performance.now()];
  return () => {
    const now = performance.now();
    left = Math.min(most, left + ((now - since) / 1000) * perSecond);
    since = now;
    return --left >= 0;
  };
}

/** Whether a window is in a frame within another one. @param {Window | null} source */
function within(source, outer) {
  for (let depth = 0; source && depth < 8; depth++) {
    if (source === outer) return true;
    if (source.parent === source) return false;
    source = source.parent;
  }
  return Boolean(source);
}

/** @returns {never} */
function fail(code, message) {
  throw Object.assign(new Error(message), { code });
}

function plainObject(value) {
  return value && typeof value === "object" && !Array.isArray(value) ? value : fail(-32602, "An object was expected.");
}

function text(value) {
  return typeof value === "string" && value && value.length <= MOST_TEXT ? value : fail(-32602, "A text was expected.");
}

/** Only what a browser opens as a page. */
function webAddress(value) {
  const url = URL.canParse(text(value)) ? new URL(value) : fail(-32602, "This is no address.");
  const good = ["https:", "http:"].includes(url.protocol) && !url.username && !url.password && url.href.length <= MOST_URL;
  return good ? url.href : fail(-32602, "Such an address is not opened.");
}

/** The text of a message's content, which is one block or several. */
function textOf(content) {
  const blocks = [content].flat().filter((block) => block?.type === "text" && typeof block.text === "string");
  return text(blocks.map((block) => block.text).join("\n"));
}
