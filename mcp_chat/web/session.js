/** The conversation on the page: which one it is, what goes on in it, and what the user can do about either. */
import { post } from "./api.js";
import { approvals, endApprovals, loadApprovals } from "./approvals.js";
import { connection, restore } from "./connection.js";
import { draft, erased, inSession, loadDraft, moveTo, name, opening, sessionId, setDraft, shown, unbegun, visit } from "./conversation.js";
import { follow } from "./line.js";
import { goesOn, isSending, messages, now, textOf } from "./messages.js";
import { user } from "./principal.js";
import { dismiss, problem, report } from "./problem.js";
import { loadQuestions, questions } from "./questions.js";
import { find, forgetOlder, loadOlder, newest, older, show as showRecord } from "./recorded.js";
import { correct, go, route } from "./route.js";
import { sender, working } from "./sending.js";
import { came, forgetSent, newId } from "./sent.js";
import { loadServers } from "./servers.js";
import { stopper, stopping } from "./stopping.js";
import { carry, recall, remember } from "./storage.js";
import { strings } from "./strings.js";
import { teller } from "./teller.js";
import { batch, signal } from "./vendor/signals.js";

export { draft, loadOlder, messages, older, setDraft, shown, stopping, textOf, working };

/** What the page waits for the line before it shows the record without: it may have to be shown again then. */
const LINE_MS = 500;

/** After which a conversation that is not there yet is asked for again. */
const SOON_MS = 100;

/** What screen readers are told: finished answers only. */
export const announcement = signal("");

/** The message that is looked for: its key on the page. @type {{value: string | null}} */
export const target = signal(null);

export const { send, exchange } = sender({ reload, adopt, over: finish });
export const stop = stopper({ reload });

/** Show the conversation that the page's address names. */
export const open = () => enter(route() ?? { session: null });

/** Put another conversation on the page. @param {string | null} id null for the default one @param {string} [message] to look for */
export async function show(id, message) {
  go(id, message);
  dismiss();
  await turnTo({ session: id, message });
}

/** Begin a conversation; one in which nothing was said yet will do. */
export async function fresh() {
  if (messages.value.length || working.value) await another();
}

/** Begin a conversation, whatever is on the page: it is there at once, and what is written goes with it. */
export async function another() {
  const last = spare;
  spare = null;
  dismiss();
  if (last?.who === user.value.id) return show(last.id);
  const here = clear((unbegun.value = newId()));
  here.opened = create(here, unbegun.value).catch((error) => here.gone.aborted || error.status === 501 || report(error));
  return openFor(here);
}

/** A conversation that was left before it was there, with what was written for it. @type {{id: string, who: string} | null} */
let spare = null;

/** @param {import("./conversation.js").Visit} here @param {string} placeholder */
async function create(here, placeholder) {
  const who = user.value.id;
  const { session_id: id } = await post("llmchat/sessions", { user_id: who });
  if (here.gone.aborted) return void ([spare] = [{ id, who }], carry(placeholder, id));
  name(id);
  go(id);
  await listen(here, id);
}

/** What is sent waits until the conversation is there. @param {import("./conversation.js").Visit} here */
async function openFor({ gone, opened }) {
  opening.value = true;
  await opened;
  if (!gone.aborted) opening.value = false;
}

/** The user went somewhere, back or forth. @param {import("./route.js").Route} route */
export async function turnTo({ session, message }) {
  if (!connection.value) return;
  if (session !== shown.value) return enter({ session, message }).catch(report);
  if (message) await seek(message).catch(report);
}

/** Forget what is shown; a running turn goes on without us. */
export const close = () => clear(null);

/** How often the record was asked for, and which of these answers is on the page: an older one that is late does not count. */
const looks = { asked: 0, shown: 0 };

/** The turn that ended last: a late record may have it as running. */
let ended = "";

/** Show the conversation as it is recorded now: it went another way. */
export async function reload() {
  const { gone } = visit();
  const [mine, since] = [++looks.asked, now()];
  const record = await newest();
  if (gone.aborted || mine < looks.shown) return;
  looks.shown = mine;
  batch(() => {
    showRecord(record, withReason, since);
    working.value = Boolean(record.running && record.running !== ended) || goesOn(since);
  });
}

/** @param {import("./route.js").Route} where */
async function enter({ session, message }) {
  const here = clear(session);
  loadDraft();
  if (session && session === unbegun.value) return;
  const id = sessionId();
  const found = listen(here, id);
  here.opened = found.catch(() => {});
  openFor(here);
  await found.catch((error) => {
    if (here.gone.aborted) return;
    if (error.status !== 404) throw error;
    return giveUp(id);
  });
  if (message && !here.gone.aborted) await seek(message);
}

/** @param {string | null} id @returns {import("./conversation.js").Visit} */
function clear(id) {
  forgetSent();
  forgetOlder();
  return batch(() => {
    messages.value = [];
    working.value = stopping.value = false;
    questions.value = [];
    approvals.value = [];
    announcement.value = draft.value = "";
    target.value = null;
    return moveTo(id);
  });
}

/** There is no such conversation, or not any more: show the default one instead. @param {string | undefined} id */
async function giveUp(id) {
  if (erased.has(id)) return undefined; // who deletes it shows another one
  if (shown.value) {
    correct(null);
    report(strings.conversation.missing);
    return enter({ session: null });
  }
  const before = connection.value?.sessionId;
  await restore(); // the user has connected anew elsewhere, and this is not the default one any more
  return connection.value && connection.value.sessionId !== before ? enter({ session: null }) : clear(null);
}

/**
 * Follow the conversation, and show it as it is recorded: a line that begins anew may have missed something before.
 * @param {import("./conversation.js").Visit} here @returns {Promise<unknown>} settled when it is shown
 */
function listen({ gone }, id = sessionId()) {
  const told = teller({ came, reload, over: finish, began, servers: () => void loadServers().catch(() => {}) });
  return new Promise((resume, fail) => {
    let isShown = false;
    const shows = () => resume((isShown = true));
    const connected = async (again) => {
      mended();
      if (again) return;
      told.forget();
      await load();
      shows();
    };
    const without = () => void (told.forget(), load().catch(() => {}));
    const following = follow({ path: `llmchat/events${inSession()}`, gone, connected, hear: told.hear, broken, busy: () => working.value, without });
    following.catch((error) => gone.aborted || (isShown && error.status === 404 ? giveUp(id).catch(report) : fail(error)));
    setTimeout(() => gone.aborted || isShown || load().then(shows, fail), LINE_MS);
  });
}

const load = () => reload().then(() => working.value && asked());

/** What is asked at the moment, by servers and by the chat. */
const asked = () => Promise.all([loadQuestions, loadApprovals].map((look) => look().catch(() => {})));

/** The line broke; what it tells goes on when it is mended, and what else was said of it holds no more. */
const broken = () => working.value && report(strings.errors.interrupted);
const mended = () => [strings.errors.interrupted, strings.errors.unreachable].includes(problem.value?.text) && !problem.value.action && dismiss();

/** A turn has begun, here or elsewhere. */
function began() {
  working.value = true;
  announcement.value = "";
}

/** A turn has ended, or never began. @param {{value: import("./turn.js").Message}} [answer] @param {string} [id] */
function finish(answer, id) {
  if (id) ended = id;
  if (answer) keepReason(answer.value);
  batch(() => {
    working.value = isSending();
    stopping.value = false;
    questions.value = [];
    endApprovals();
  });
  tell(answer?.value).catch(console.error); // nothing else depends on it
  if (connection.value) loadServers().catch(() => {}); // the turn may have found that one has changed
  if (prompted(answer) && !working.value) reload().catch(report);
}

/** Whether a prompt began the turn: of what that says before the question, only the record tells. @param {{value: object}} [answer] */
function prompted(answer) {
  const before = messages.value.slice(0, messages.value.indexOf(answer));
  return Boolean(answer && before.findLast(({ value }) => value.role === "user")?.value.prompt);
}

/** Nothing was known of the conversation until its first message came. @param {Response} response */
function adopt({ headers }) {
  const id = headers.get("MCP-Chat-Session");
  if (!unbegun.value || shown.value !== unbegun.value || !id) return;
  name(id);
  go(id);
  listenSoon(visit());
}

/** Follow a conversation that begins this moment: it may not be recorded yet. @param {import("./conversation.js").Visit} here */
async function listenSoon(here, tries = 20) {
  const error = await listen(here).then(() => null, (fault) => fault);
  if (!error || here.gone.aborted) return;
  if (error.status !== 404 || !tries) return report(error);
  await new Promise((resume) => setTimeout(resume, SOON_MS));
  if (!here.gone.aborted) await listenSoon(here, tries - 1);
}

/** Keep why an answer failed: the record has only that it did. @param {import("./turn.js").Message} answer */
function keepReason({ state, question, error, recoverable }) {
  if (state === "failed" && question) remember(reasonKey(), JSON.stringify([question, { error, recoverable }]));
}

/** @param {import("./turn.js").Message} answer */
function withReason(answer) {
  const [question, why] = JSON.parse(recall(reasonKey()) || "[]");
  return answer.state === "failed" && answer.question === question ? { ...answer, ...why } : answer;
}

const reasonKey = () => `failure:${user.value.id}`;

/** Read until a message is on the page, and lead to it. @param {string} id */
async function seek(id) {
  const { gone } = visit();
  const found = await find(id);
  if (gone.aborted) return;
  target.value = null; // so that the same one can be looked for again
  if (found) target.value = found;
  else report(strings.conversation.noMessage);
}

/** Have an answer read aloud. @param {import("./turn.js").Message | undefined} answer */
async function tell(answer, { gone } = visit()) {
  if (answer?.role !== "assistant") return void (announcement.value = "");
  const { aloud } = await import("./aloud.js");
  if (gone.aborted) return;
  const { announce, announceFailed } = strings.message;
  announcement.value = answer.state === "failed" ? announceFailed(answer.error ?? "") : announce(aloud(textOf(answer)));
}
