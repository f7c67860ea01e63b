/** HTTP with the chat's own server: JSON in, JSON out, and one sentence when something fails. */
import { recall } from "./storage.js";
import { strings } from "./strings.js";

/** A failure whose message may be shown. `status` is 0 when no answer came at all. */
class ApiError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let unauthorized = () => {};

/** @param {() => void} handler called whenever the server no longer knows who is asking */
export function onUnauthorized(handler) {
  unauthorized = handler;
}

/** @param {string} path */
export const get = (path) => send(path, {}).then(body);

/** @param {string} path @param {object} data */
export const post = (path, data) => stream(path, data).then(body);

/** Post, and hand back the response with its body unread. */
export const stream = (path, data, signal) =>
  send(path, { method: "POST", body: JSON.stringify(data), headers: { "Content-Type": "application/json" }, signal });

/** @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
async function send(path, options) {
  const token = recall("token");
  const headers = { Accept: "application/json, text/event-stream", ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(address(path), { ...options, headers, cache: "no-store" }).catch((error) => {
    throw error.name === "AbortError" ? error : new ApiError(strings.errors.unreachable, 0);
  });
  if (response.ok) return response;
  if (response.status === 401) unauthorized();
  throw new ApiError(sentence(await body(response).catch(() => null), response.status), response.status);
}

/** Relative to the page, so that it works behind any path prefix. @param {string} path */
const address = (path) => new URL(path, document.baseURI);

/** @param {Response} response */
async function body(response) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(strings.errors.unreadable, response.status);
  }
}

/** What the server's `detail` says: a sentence, or a list of fields and what is wrong with them. */
function sentence(answer, status) {
  const detail = answer?.detail;
  if (typeof detail === "string" && detail) return detail;
  if (Array.isArray(detail) && detail.length) return detail.map(fieldError).join(" ");
  return strings.errors.status(status);
}

/** @param {{loc?: (string|number)[], msg?: string}} item */
function fieldError({ loc = [], msg = "" }) {
  const field = loc.filter((part) => part !== "body").join(" › ");
  return field ? `${field}: ${msg}.` : `${msg}.`;
}
