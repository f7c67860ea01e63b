/** The conversation: its messages, the turn that runs, and what the user can do about either. */
import { receive } from "./answer.js";
import { get, post, stream } from "./api.js";
import { connection, me, restore } from "./connection.js";
import { messagesOf } from "./history.js";
import { user } from "./principal.js";
import { dismiss, report } from "./problem.js";
import { recall, remember } from "./storage.js";
import { strings } from "./strings.js";
import { batch, signal } from "./vendor/signals.js";

const POLL_MS = 1000;
const PATIENCE_MS = 8000;

/**
 * One signal per message, so that a token repaints the last message and nothing else.
 * @type {{value: {value: import("./turn.js").Message}[]}}
 */
export const messages = signal([]);

/** Whether a turn runs, started here or elsewhere. */
export const working = signal(false);
export const stopping = signal(false);

/** What screen readers are told: finished answers only. */
export const announcement = signal("");

/** The text that is not sent yet. */
export const draft = signal("");

/** Aborted when this conversation is no longer shown; then nothing that is under way may touch the page. */
let shown = new AbortController();

/** Aborted to give up on the stream of the current turn, and look the answer up instead. */
let line = new AbortController();

/**
 * The message that is not known to have arrived. Sent again unchanged it keeps its id, and the server takes it once.
 * @type {{text: string, id: string} | null}
 */
let astray = null;

/** Settled once the recorded conversation is shown: who sends sooner is made to wait for it. */
let opened = Promise.resolve();

/** Show the recorded conversation, and wait for the answer if a turn still runs. */
export async function open() {
  const { signal: gone } = shown;
  draft.value = recall(draftKey());
  const loading = load(gone);
  opened = loading.then(() => {}, () => {});
  if (await loading) await settle(gone).then(finish);
}

/** @param {AbortSignal} gone @returns {Promise<boolean>} whether a turn runs */
async function load(gone) {
  const record = await history();
  if (!gone.aborted) show(record);
  return !gone.aborted && Boolean(record.running);
}

/** Forget what is shown; a running turn goes on without us. */
export function close() {
  shown.abort();
  shown = new AbortController();
  astray = null;
  batch(() => {
    messages.value = [];
    working.value = stopping.value = false;
    announcement.value = draft.value = "";
  });
}

/** @param {string} text */
export function setDraft(text) {
  draft.value = text;
  remember(draftKey(), text);
}

/** Send a message and show the answer as it arrives. @param {string} text */
export async function send(text) {
  if (working.value || !text.trim()) return;
  const { signal: gone } = shown;
  await opened;
  if (gone.aborted || working.value) return;
  line = new AbortController();
  const key = draftKey();
  const before = lastQuestion();
  const pair = begin(text);
  try {
    await ask(text, pair[1], before, gone);
  } catch (error) {
    if (error.status === 401) remember(key, text); // it is back in the text field after the next sign-in
    if (!gone.aborted) await refuse(text, error, pair);
  }
  if (!gone.aborted) finish();
}

/** Stream the answer; if that breaks, look it up. Throws only if the server seems not to have the message. */
async function ask(text, answer, before, gone) {
  const hungUp = AbortSignal.any([gone, line.signal]);
  if (astray?.text !== text) astray = { text, id: newId() };
  const sent = request({ message: text, message_id: astray.id, streaming: true });
  let lost = null;
  const response = await stream("llmchat/chat", sent, hungUp).catch((error) => {
    if (error.status) throw error;
    if (error.name !== "AbortError") lost = error; // the server may have taken the message all the same
    return null;
  });
  if (response) astray = null;
  if (gone.aborted || (response && (await receive(response.body, answer))) || gone.aborted) return;
  const known = await recover(gone, lost ? PATIENCE_MS : Infinity);
  if (gone.aborted || !lost || !astray) return;
  if (!known || lastQuestion() !== text || before === text) throw lost; // in doubt too: its id makes that safe
  astray = null;
}

/** Ask the server to stop the turn; its stream then ends by itself. */
export async function stop() {
  if (!working.value || stopping.value) return;
  stopping.value = true;
  const turn = line;
  try {
    const { status } = await post("llmchat/cancel", request({}));
    if (status === "no_running_turn") line.abort();
    setTimeout(() => turn === line && (stopping.value = false), PATIENCE_MS); // so that it can be tried again
  } catch (error) {
    stopping.value = false;
    report(error, { label: strings.retry, run: stop });
  }
}

/** Put the message and an empty answer on the page, and return the two. */
function begin(text) {
  const pair = [message("user", [{ kind: "text", text }], "done"), message("assistant", [], "running")].map((one) => signal(one));
  batch(() => {
    dismiss();
    setDraft("");
    announcement.value = "";
    working.value = true;
    messages.value = [...messages.value, ...pair];
  });
  return pair;
}

/** The server did not take the message: it goes back into the text field. */
async function refuse(text, error, pair) {
  messages.value = messages.value.filter((one) => !pair.includes(one));
  if (!draft.value) setDraft(text);
  if (error.status === 400) await restore().catch(() => {}); // 400: perhaps no longer connected
  report(connection.value ? error : strings.errors.notConnected);
}

/** The stream broke, the turn did not: show what the record says once it is over. */
async function recover(gone, patience) {
  report(strings.errors.interrupted);
  const known = await settle(gone, patience);
  if (!gone.aborted) dismiss();
  return known;
}

/**
 * Follow the record until no turn runs. A server that does not answer is asked again.
 * @param {number} patience ms in which it must answer for the first time
 * @returns {Promise<boolean>} whether it did
 */
async function settle(gone, patience = Infinity) {
  const began = performance.now();
  let known = false;
  for (let running = true; running && !gone.aborted; ) {
    const record = await history().catch(() => null);
    if (record && !gone.aborted) show(record);
    known ||= Boolean(record);
    running = record ? Boolean(record.running) : known || performance.now() - began < patience;
    if (running) await new Promise((resume) => setTimeout(resume, POLL_MS));
  }
  return known;
}

/** @param {{messages: object[], running: string | null}} record */
function show(record) {
  if (astray && record.running === astray.id) astray = null; // it did arrive
  batch(() => {
    messages.value = messagesOf(record.messages, Boolean(record.running)).map((one) => signal(one));
    working.value = Boolean(record.running);
  });
}

function finish() {
  batch(() => {
    working.value = stopping.value = false;
    announcement.value = spoken(messages.value.at(-1)?.value);
  });
}

/** @param {import("./turn.js").Message | undefined} answer */
function spoken(answer) {
  if (answer?.role !== "assistant") return "";
  if (answer.state === "failed") return strings.message.announceFailed(answer.error ?? "");
  return strings.message.announce(textOf(answer).replace(/[*_`#>|]+/g, ""));
}

/** @param {import("./turn.js").Message} message */
export const textOf = ({ parts }) => parts.filter(({ kind }) => kind === "text").map(({ text }) => text).join("\n\n");

/** What was asked last, as far as the page shows. */
const lastQuestion = () => {
  const question = messages.value.findLast((one) => one.value.role === "user");
  return question && textOf(question.value);
};

/** Not `randomUUID`: that is only there over HTTPS and on this machine. */
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

let count = 0;
const message = (role, parts, state) => ({ id: `here-${++count}`, role, parts, state });

const request = (more) => ({ user_id: user.value.id, session_id: connection.value?.sessionId, ...more });

const draftKey = () => `draft:${user.value.id}`;

async function history() {
  const session = connection.value?.sessionId;
  const query = session ? `?session_id=${encodeURIComponent(session)}` : "";
  return get(`llmchat/history/${me()}${query}`).catch((error) => {
    if (error.status === 404) return { messages: [], running: null };
    throw error;
  });
}
