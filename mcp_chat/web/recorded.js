/** The recorded conversation: its newest part, and older parts as somebody looks for them. */
import { get } from "./api.js";
import { inSession, sessionId, shown, visit } from "./conversation.js";
import { me } from "./connection.js";
import { messagesOf } from "./history.js";
import { messages, paint, prepend } from "./messages.js";
import { batch, computed, signal } from "./vendor/signals.js";

const NEWEST = 50;
const PAGE = 200;

/**
 * What stands before the messages on the page: `held`: records of an answer whose question is not read yet; `cursor`:
 * where to read on, undefined before the first time, and null when that was all.
 * @type {{value: {held: object[], cursor: string | null | undefined}}}
 */
const before = signal({ held: [], cursor: null });

/** Whether there are older messages than those on the page. */
export const older = computed(() => before.value.cursor !== null);

/** Forget what was read. */
export const forgetOlder = () => (before.value = { held: [], cursor: null });

/** @returns {Promise<{messages: object[], running: string | null}>} the newest records, and the turn that runs */
export async function newest() {
  const query = `${inSession() || "?"}${inSession() && "&"}limit=${NEWEST}`;
  return get(`llmchat/history/${me()}${query}`).catch((error) => {
    if (error.status === 404 && !shown.value) return { messages: [], running: null };
    throw error;
  });
}

/**
 * Show the newest records.
 * @param {{messages: object[], running: string | null}} record
 * @param {(message: import("./turn.js").Message) => import("./turn.js").Message} more adds what the record does not have
 * @param {number} since the moment at which it was asked for
 */
export function show({ messages: records, running }, more, since) {
  const whole = records.length < NEWEST;
  const { held, rest } = whole ? { held: [], rest: records } : fromQuestion(records);
  batch(() => {
    const kept = paint(messagesOf(rest, Boolean(running)).map(more), since);
    if (!kept) before.value = { held, cursor: whole ? null : undefined };
  });
}

/** Read the next older page, and show it above. @returns {Promise<void>} */
export async function loadOlder() {
  const { gone } = visit();
  const { held, cursor } = before.value;
  if (cursor === null) return;
  const page = await get(`llmchat/sessions/${encodeURIComponent(sessionId())}/messages?limit=${PAGE}${cursor ? `&before=${cursor}` : ""}`).catch((error) => {
    if (error.status === 501) return { messages: held, before: null }; // without a database that was all
    throw error;
  });
  if (gone.aborted || before.value.cursor !== cursor) return;
  const unseen = cursor ? [...page.messages, ...held] : unseenOf(page.messages);
  const { held: next, rest } = page.before ? fromQuestion(unseen, true) : { held: [], rest: unseen };
  batch(() => {
    before.value = { held: next, cursor: page.before };
    prepend(messagesOf(rest, false));
  });
}

/** The first page begins with what is on the page already. @param {object[]} records */
function unseenOf(records) {
  const first = messages.value[0]?.value.records?.[0];
  const place = records.findIndex(({ id }) => id === first);
  return place < 0 ? records : records.slice(0, place);
}

/** Whole answers only: what comes before the first question is kept until that is read. */
function fromQuestion(records, strict = false) {
  const place = records.findIndex(({ role, metadata }) => role === "user" && !metadata?.steer);
  if (place < 0) return strict ? { held: records, rest: [] } : { held: [], rest: records };
  return { held: records.slice(0, place), rest: records.slice(place) };
}

/** The message that shows a record. @param {string} id */
const showing = (id) => messages.value.find(({ value }) => value.records?.includes(id));

/** Read until a message is on the page. @param {string} id @returns {Promise<string | undefined>} its key on the page */
export async function find(id) {
  const { gone } = visit();
  while (!showing(id) && older.value && !gone.aborted) await loadOlder();
  return gone.aborted ? undefined : showing(id)?.value.id;
}
