/** How a file comes to the chat: each is sent as soon as it is chosen, one after the other. */
import { size } from "./format.js";
import { strings } from "./strings.js";
import { upload as send } from "./transfer.js";
import { change, files, stops, TAKEN } from "./uploads.js";

const MOST_FILES = 8;

const BY_ENDING = { md: "text/markdown", markdown: "text/markdown", csv: "text/csv", json: "application/json" };
const TEXTS = /\.(txt|log|ya?ml|toml|ini|cfg|conf|env|sql|sh|py|rb|rs|go|java|kt|c|h|cc|cpp|hpp|cs|js|mjs|ts|jsx|tsx|css|scss|html?|xml|svg|tex|rst|diff|patch|jsonl|tsv|php|lua|swift)$/i;

/** The type that a file is sent as: source code and the like are plain text. @param {File} file @returns {string | undefined} */
function typeOf({ name, type }) {
  const ending = BY_ENDING[name.split(".").at(-1).toLowerCase()];
  if (ending) return ending;
  if (TAKEN.includes(type)) return type;
  return type.startsWith("text/") || TEXTS.test(name) ? "text/plain" : undefined;
}

let line = Promise.resolve(); // the chat takes few files of a user at a time

/** @param {File} file @param {string} key of its place among those that go with the message */
export function upload(file, key) {
  if (stops.get(key).signal.aborted) return; // its user has thought better of it
  const type = typeOf(file);
  const error = faultOf(file, key, type);
  change(key, error ? { state: "failed", error } : { type });
  if (error) stops.delete(key);
  else line = line.then(() => bring(file, key));
}

/** Why a file cannot go with the message, as far as that is known here. @param {File} file @param {string} key @param {string | undefined} type */
function faultOf({ size: bytes }, key, type) {
  const before = files.value.slice(0, files.value.findIndex((each) => each.key === key));
  if (before.filter(({ state }) => state !== "failed").length >= MOST_FILES) return strings.enclosed.tooMany(MOST_FILES);
  if (!type) return strings.enclosed.wrongType;
  return bytes ? "" : strings.enclosed.emptyFile;
}

async function bring(file, key) {
  const { type } = files.value.find((each) => each.key === key) ?? {};
  const stop = stops.get(key).signal;
  if (!type || stop.aborted) return;
  try {
    const path = `llmchat/uploads?name=${encodeURIComponent(file.name)}`;
    const sent = await send(path, file, type, (part) => change(key, { part }), stop);
    change(key, { state: "ready", part: 1, id: sent.upload_id, name: sent.name, type: sent.media_type });
  } catch (error) {
    if (!stop.aborted) change(key, { state: "failed", error: readable(error) });
  } finally {
    stops.delete(key);
  }
}

/** What went wrong, in a sentence; sizes as people say them. @param {Error & {status?: number}} error */
const readable = ({ message, status }) => (status === 501 ? strings.enclosed.noStorage : message.replace(/(\d{4,}) bytes/g, (_, bytes) => size(Number(bytes))));
