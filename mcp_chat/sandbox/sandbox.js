/**
 * The page around an app, on an origin that has nothing: it shows the app in a frame that has not even that
 * origin, and passes messages on between app and chat, counted and measured.
 */
const CHATS = document.querySelector("meta[name=chat]").content.split(" ");
const MOST_CHARACTERS = 262_144;
const [AT_ONCE, PER_SECOND] = [100, 50];

const chat = window.parent;
let chatOrigin = "";
let app = null;
let [left, since] = [AT_ONCE, performance.now()];

addEventListener("message", ({ source, origin, data }) => {
  if (source === chat && CHATS.includes(origin)) fromChat(data, origin);
});
addEventListener("message", (event) => {
  if (app && event.source === app.contentWindow) fromApp(event);
});
chat.postMessage(notification("ui/notifications/sandbox-proxy-ready"), "*"); // says nothing, so anyone may hear it

function fromChat(message, origin) {
  if (message?.method === "ui/notifications/sandbox-resource-ready") show(String(message.params?.html ?? ""), origin);
  else if (app) app.contentWindow.postMessage(message, "*"); // an app's origin has no name
}

/** @param {string} html */
function show(html, origin) {
  if (app) return;
  chatOrigin = origin;
  app = Object.assign(document.createElement("iframe"), { title: "App", srcdoc: html });
  app.setAttribute("sandbox", "allow-scripts allow-forms");
  document.body.append(app);
}

/** Count first: what is too much is not even looked at. @param {MessageEvent} event */
function fromApp(event) {
  if (!counted()) return stop();
  const text = asText(event);
  if (text) chat.postMessage(JSON.parse(text), chatOrigin);
}

function counted() {
  const now = performance.now();
  left = Math.min(AT_ONCE, left + ((now - since) / 1000) * PER_SECOND);
  since = now;
  return --left >= 0;
}

/** A message as JSON; nothing if it is none, too large, or one that only this page may send. */
function asText(event) {
  try {
    const text = JSON.stringify(event.data);
    const reserved = String(event.data.method ?? "").startsWith("ui/notifications/sandbox-");
    return event.data.jsonrpc === "2.0" && !reserved && text.length <= MOST_CHARACTERS ? text : "";
  } catch {
    return "";
  }
}

function stop() {
  app.remove();
  app = null;
  chat.postMessage(notification("ui/notifications/sandbox-flooded"), chatOrigin);
}

function notification(method) {
  return { jsonrpc: "2.0", method, params: {} };
}
