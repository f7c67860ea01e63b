/** HTTP with the chat's own server: JSON in, JSON out, and one sentence when something fails. */
import { recall } from "./storage.js";
import { strings } from "./strings.js";

/** A failure whose message may be shown. `status` is 0 when no answer came at all. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status @param {object[]} [errors] what is wrong with which field */
  constructor(message, status, errors = []) {
    super(message);
    Object.assign(this, { status, errors });
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

/** @param {string} path @param {object} data */
export const patch = (path, data) => send(path, withBody("PATCH", data)).then(body);

/** Post what is JSON already, as it is. @param {string} path @param {string} text */
export const postText = (path, text) => send(path, withText("POST", text)).then(body);

/** @param {string} path */
export const remove = (path) => send(path, { method: "DELETE" }).then(body);

/** Post, and hand back the response with its body unread. */
export const stream = (path, data, signal, more = {}) => send(path, { ...withBody("POST", data, more), signal });

/** What is told without end. @param {string} path @param {AbortSignal} signal @returns {Promise<ReadableStream<Uint8Array>>} */
export const watch = async (path, signal) => (await send(path, { signal })).body;

/** @param {string} method @param {object} data @param {Record<string, string>} [more] headers */
const withBody = (method, data, more) => withText(method, JSON.stringify(data), more);

const withText = (method, text, more = {}) => ({ method, body: text, headers: { "Content-Type": "application/json", ...more } });

/** @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
export async function send(path, options) {
  const headers = { Accept: "application/json, text/event-stream", ...options.headers, ...proof() };
  const response = await fetch(address(path), { ...options, headers, cache: "no-store" }).catch((error) => {
    throw error.name === "AbortError" ? error : new ApiError(strings.errors.unreachable, 0);
  });
  return answered(response);
}

/** Who is asking, where no cookie says it. */
export const proof = () => (recall("token") ? { Authorization: `Bearer ${recall("token")}` } : {});

/** @param {Response} response @returns {Promise<Response>} */
export async function answered(response) {
  if (response.ok) return response;
  if (response.status === 401) unauthorized();
  const answer = await body(response).catch(() => null);
  throw new ApiError(sentence(answer, response.status), response.status, answer?.errors ?? []);
}

/** Relative to the page, so that it works behind any path prefix. @param {string} path */
export const address = (path) => new URL(path, document.baseURI);

/** @param {Response} response */
export async function body(response) {
  const text = await response.text().catch(() => {
    throw new ApiError(strings.errors.unreachable, 0);
  });
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(strings.errors.unreadable, response.status);
  }
}

/** What the server says: of fields what is wrong with each, or a sentence. */
function sentence(answer, status) {
  const detail = answer?.errors?.length ? answer.errors : answer?.detail;
  if (typeof detail === "string" && detail) return detail;
  if (Array.isArray(detail) && detail.length) return detail.map(fieldError).join(" ");
  return strings.errors.status(status);
}

/** @param {{loc?: (string|number)[], msg?: string}} item */
function fieldError({ loc = [], msg = "" }) {
  const field = loc.filter((part) => part !== "body" && part !== "content").join(" › ");
  return field ? `${field}: ${msg}.` : `${msg}.`;
}
