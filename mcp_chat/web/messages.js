/** The messages on the page, and which there are while the conversation goes on. */
import { signal } from "./vendor/signals.js";

/** @typedef {import("./turn.js").Message} Message */
/** @typedef {{value: Message, peek: () => Message}} Shown */

/**
 * One signal per message, so that a token repaints the last message and nothing else.
 * @type {{value: Shown[]}}
 */
export const messages = signal([]);

/** @param {Message} message */
export const textOf = ({ parts }) => parts.filter(({ kind }) => kind === "text").map(({ text }) => text).join("\n\n");

/** What was asked last, as far as it is known to be recorded. @returns {Message | undefined} */
export const lastQuestion = () => messages.value.findLast(({ value }) => value.role === "user" && !value.pending)?.value;

/** Whether a question is on its way whose turn the line has not told of. */
export const isSending = () => messages.value.some(({ value }) => value.pending && value.role === "assistant");

/** When the line has told of a message last. @type {WeakMap<Shown, number>} */
const told = new WeakMap();
let moment = 0;
export const now = () => moment;

/** The line tells of a message: a record that was asked for before does not know what. @param {Shown} one */
export const tell = (one) => told.set(one, ++moment);

/** Whether an answer goes on of which a record of a moment may not know. @param {number} since */
export const goesOn = (since) => isSending() || messages.value.some((one) => told.get(one) > since && one.value.state === "running");

/**
 * Show what is recorded. What stands before it stays, and so do what is still being sent and what was told meanwhile.
 * @param {Message[]} recorded
 * @param {number} since the moment at which the record was asked for
 * @returns {boolean} whether anything before it stands on the page
 */
export function paint(recorded, since) {
  const known = new Map(messages.value.map((one) => [keyOf(one.value), one]));
  const start = recorded.length ? messages.value.indexOf(known.get(keyOf(recorded[0]))) : 0;
  const renew = (one, message) => (told.get(one) > since ? one : renewed(one, message));
  const fresh = recorded.map((message) => renew(known.get(keyOf(message)), message));
  const later = messages.value.filter((one) => (one.value.pending || told.get(one) > since) && !fresh.includes(one));
  messages.value = [...messages.value.slice(0, Math.max(0, start)), ...fresh, ...later];
  return start > 0;
}

/** Show older messages above. @param {Message[]} older */
export const prepend = (older) => (messages.value = [...older.map((one) => signal(one)), ...messages.value]);

/** What a message is known by over a reload: an answer by what it answers. @param {Message} message */
const keyOf = ({ role, id, record, question, records }) =>
  role === "user" ? record ?? id : question ? `to ${question}` : records?.[0] ?? id;

/** The same place on the page, so that nothing jumps. @param {Shown | undefined} known @param {Message} message */
function renewed(known, message) {
  if (!known) return signal(message);
  known.value = { ...message, id: known.value.id, turn: known.value.turn };
  return known;
}

/**
 * Put a question that is being sent on the page, with an empty answer unless one is on its way.
 * @param {Message} question @param {Shown[]} [before] what stays
 */
export function ask(question, before = messages.value) {
  const asked = { ...question, id: newKey(), role: "user", pending: true };
  messages.value = [...before, signal(asked), ...(asked.state === "waiting" ? [] : [answerTo(asked)])];
}

/** Take back what was sent as a turn. @param {string} turn */
export const withdraw = (turn) => (messages.value = messages.value.filter(({ value }) => value.turn !== turn));

/** Leave what was sent as a turn where it is, whatever became of it. @param {string} turn @returns {Shown | undefined} its answer */
export function release(turn) {
  const mine = messages.value.filter(({ value }) => value.turn === turn);
  for (const one of mine) one.value = { ...one.value, pending: false };
  return mine.find(({ value }) => value.role === "assistant");
}

/**
 * A recorded question without an answer yet: all behind it goes, as the answer is told from its beginning.
 * @param {Message} question as the record has it @returns {Shown} its answer
 */
export function begin(question) {
  const all = messages.value;
  const place = all.findIndex(({ value }) => value.role === "user" && (value.record === question.record || value.turn === question.turn));
  const settled = all.slice(0, place < 0 || all[place].value.pending ? all.length : place).filter(({ value }) => !value.pending && !isEmpty(value));
  const mine = all.filter(({ value }) => value.pending && value.turn !== question.turn);
  const asked = all[place] ?? signal({ id: newKey() });
  asked.value = { ...asked.value, ...question, pending: false };
  const answer = all.find(({ value }) => value.pending && value.role === "assistant" && value.turn === question.turn) ?? answerTo(asked.value);
  answer.value = { ...answer.value, question: question.record, pending: false };
  [asked, answer].forEach(tell);
  messages.value = [...settled.map(closed), asked, answer, ...mine];
  return answer;
}

/** An answer that is all there is to come of it. @param {Shown} one */
function closed(one) {
  if (one.value.state === "running") one.value = { ...one.value, state: "done" };
  return one;
}

/**
 * The user said something into an answer. @param {Message} question @returns {Shown} the message in which the answer goes on
 */
export function goOn(question) {
  const all = messages.value.filter(({ value }) => value.turn !== question.turn || !value.pending);
  const mine = messages.value.find(({ value }) => value.pending && value.turn === question.turn);
  const settled = all.filter(({ value }) => !value.pending);
  const until = settled.at(-1);
  if (until?.value.state === "running") until.value = { ...until.value, state: until.value.parts.length ? "done" : "over" };
  const asked = mine ?? signal({ id: newKey() });
  asked.value = { ...asked.value, ...question, pending: false };
  const answer = answerTo(asked.value);
  answer.value = { ...answer.value, question: question.record, begun: true };
  [asked, answer].forEach(tell);
  messages.value = [...settled, asked, answer, ...all.filter(({ value }) => value.pending)];
  return answer;
}

/** All that an answer has said is said again: what came behind it goes. @param {Shown} answer */
export function rewind(answer) {
  const all = messages.value;
  const pending = all.filter(({ value }) => value.pending);
  messages.value = [...all.slice(0, all.indexOf(answer) + 1).filter((one) => !pending.includes(one)), ...pending];
  answer.value = { ...answer.value, state: "running" };
}

/** The answer that is on its way, begun if need be. @returns {Shown} */
export function current() {
  const running = messages.value.findLast(({ value }) => value.role === "assistant" && value.state === "running" && !value.pending);
  if (running) return running;
  const answer = answerTo(lastQuestion());
  answer.value = { ...answer.value, pending: false };
  messages.value = [...messages.value.filter(({ value }) => !value.pending), answer, ...messages.value.filter(({ value }) => value.pending)];
  return answer;
}

const isEmpty = ({ role, state, parts }) => role === "assistant" && state === "running" && !parts.length;

/** @param {Message} [question] @returns {Shown} */
const answerTo = (question) =>
  signal({ id: newKey(), role: "assistant", parts: [], state: "running", question: question?.record, turn: question?.turn, pending: question?.pending });

let count = 0;
const newKey = () => `here-${++count}`;
