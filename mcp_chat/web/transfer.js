/** Files: from the chat's own server, and to it. */
import { address, answered, ApiError, body, proof, send } from "./api.js";
import { recall } from "./storage.js";
import { strings } from "./strings.js";

/** @param {string} path @returns {Promise<string>} a file as it is */
export const getText = (path) => send(path, {}).then((response) => response.text());

/** A file, and what the server calls it. @param {string} path @returns {Promise<{file: Blob, name: string}>} */
export async function getFile(path) {
  const response = await send(path, {});
  const [, name = ""] = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("content-disposition") ?? "") ?? [];
  return { file: await response.blob(), name: decodeURIComponent(name) };
}

/**
 * The address of a file, for an element to load: a token goes with no such request, so that one is fetched here.
 * @param {string} path @returns {Promise<string>}
 */
export async function addressOf(path) {
  if (!recall("token")) return path;
  const file = await send(path, {}).then((response) => response.blob());
  return new Promise((done, failed) => {
    const reader = Object.assign(new FileReader(), { onload: () => done(reader.result), onerror: () => failed(reader.error) });
    reader.readAsDataURL(file);
  });
}

/**
 * Send a file, and tell how much of it has gone: `fetch` does not know.
 * @param {string} path @param {Blob} file @param {string} type @param {(part: number) => void} tell of 1 @param {AbortSignal} stop
 */
export const upload = (path, file, type, tell, stop) =>
  new Promise((done, failed) => {
    const sending = new XMLHttpRequest();
    const fail = () => failed(new ApiError(strings.errors.unreachable, 0));
    const end = () => taken(sending).then(done, failed);
    stop.addEventListener("abort", () => sending.abort());
    sending.upload.onprogress = ({ loaded, total }) => total && tell(loaded / total);
    Object.assign(sending, { onload: end, onerror: fail, onabort: fail });
    sending.open("POST", address(path));
    for (const [name, value] of Object.entries({ ...proof(), "Content-Type": type, Accept: "application/json" })) sending.setRequestHeader(name, value);
    sending.send(file);
  });

/** @param {XMLHttpRequest} sent */
const taken = ({ responseText, status }) => answered(new Response(responseText, { status })).then(body);
