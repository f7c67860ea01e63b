/** What the user says: it is sent, and the live line shows what comes of it. */
import { stream } from "./api.js";
import { connection, restore } from "./connection.js";
import { draft, draftKey, request, setDraft, visit } from "./conversation.js";
import { ask, lastQuestion, messages, release, withdraw } from "./messages.js";
import { isOfNobody } from "./principal.js";
import { dismiss, report } from "./problem.js";
import { newest } from "./recorded.js";
import { answered, came, forsake, idOf, told } from "./sent.js";
import { events } from "./sse.js";
import { recall, remember } from "./storage.js";
import { strings } from "./strings.js";
import { fold } from "./turn.js";
import { batch, signal } from "./vendor/signals.js";

const LOOK_MS = 1000;
const PATIENCE_MS = 8000;

/** For the line to tell of a turn whose own stream has ended already. */
const GRACE_MS = 2000;

/** Whether a turn runs, started here or elsewhere. */
export const working = signal(false);

/**
 * @typedef {{attachments?: {id: string, name: string, type: string}[], prompt?: {server: string, name: string, arguments?: object},
 *   resources?: {server: string, uri: string, name?: string}[]}} More what goes with a message
 * @typedef {{reload: () => Promise<void>, adopt: (response: Response) => void, over: () => void}} Page
 */

/** @param {Page} page */
export function sender({ reload, adopt, over }) {
  /**
   * Send a message and show the answer as it arrives; while one does, say it into that.
   * @param {string} text
   * @param {More} [more]
   * @param {(all: object[]) => object[]} [keep] the messages that stay on the page, if it is not all, and the text field as it is
   * @returns {Promise<boolean>} whether it was taken: else the text is back in its field
   */
  async function send(text, more = {}, keep) {
    const own = { message: text, ...fields(more) };
    if (!text.trim() && Object.keys(own).length === 1) return false;
    return (working.value ? steer(text, own, more) : exchange({ text, own, more, keep }));
  }

  /**
   * Ask something.
   * @param {{text: string, own: object, more?: More, files?: object[], path?: string, keep?: (all: object[]) => object[]}} asking
   *   `own`: what the request says; `files`: what the message has already; `keep`: the messages that stay, if it is not all
   * @returns {Promise<boolean>} whether it was taken
   */
  async function exchange({ text, own, more, files, path = "llmchat/chat", keep }) {
    if (working.value) return false;
    const { gone, opened } = visit();
    await opened;
    if (gone.aborted || working.value) return false;
    const [key, earlier, before, turn] = [draftKey(), messages.value, lastQuestion()?.record, idOf(own)];
    begin({ ...said(text, more), ...(files && { files }), turn }, keep);
    const ours = messages.value;
    try {
      const lost = await deliver({ own: { ...(own.message !== undefined && { message_id: turn }), ...own }, path, turn }, gone);
      if (lost && !gone.aborted && !(await arrived({ turn, text, before }, gone))) throw lost;
    } catch (error) {
      if (error.status === 401 || gone.aborted) return setAside(key, own.message);
      forsake(turn);
      if (messages.value === ours) messages.value = earlier;
      else withdraw(turn);
      over();
      await refuse(own.message ?? "", error);
      return false;
    }
    return true;
  }

  /** Say something into the turn that runs. */
  async function steer(text, own, more) {
    const { gone } = visit();
    const [key, turn] = [draftKey(), idOf(own)];
    ask({ ...said(text, more), turn, state: "waiting" });
    setDraft("");
    try {
      const lost = await deliver({ own: { ...own, message_id: turn, if_running: "steer" }, path: "llmchat/chat", turn }, gone);
      if (lost && !(await Promise.race([told(turn).then(() => true), pause(PATIENCE_MS)]))) throw lost;
      return true;
    } catch (error) {
      if (gone.aborted) return setAside(key, text);
      forsake(turn);
      withdraw(turn);
      if (!draft.value) setDraft(text);
      report(error);
      return false;
    }
  }

  /**
   * Send, and wait until the line tells of it, or the turn has ended without that.
   * @returns {Promise<Error | null>} what went wrong if nobody knows whether the message was taken. Throws if it was not.
   */
  async function deliver({ own, path, turn }, gone) {
    const here = told(turn);
    const left = new Promise((resume) => gone.addEventListener("abort", () => resume()));
    const hangUp = new AbortController();
    const sent = stream(path, request({ ...own, streaming: true }), hangUp.signal, { "Idempotency-Key": turn });
    const response = await Promise.race([here, sent.catch((error) => (error.status ? Promise.reject(error) : error))]);
    if (response instanceof Error) return response;
    if (response && !gone.aborted) adopt(response);
    answered(turn);
    const end = response && (await Promise.race([here, left, ending(response.body)]));
    if (end) await Promise.race([here, pause(GRACE_MS)]);
    hangUp.abort();
    sent.catch(() => {});
    if (end && forsake(turn) && !gone.aborted) await close(turn, end);
    return null;
  }

  /** Show what has become of a turn of which the line has told nothing. */
  async function close(turn, end) {
    if (end.name === "error") {
      const answer = release(turn);
      if (answer) answer.value = fold(answer.value, end);
    } else {
      withdraw(turn);
      await reload().catch(report);
    }
    over();
  }

  /** Look whether a message is there whose answer was lost. @returns {Promise<boolean>} false if it seems not to be */
  async function arrived({ turn, text, before }, gone) {
    const here = told(turn).then(() => true);
    const look = async () => {
      for (const began = performance.now(); performance.now() - began < PATIENCE_MS && !gone.aborted; await pause(LOOK_MS)) {
        const record = await newest().catch(() => null);
        if (record) return record;
      }
      return null;
    };
    const record = await Promise.race([here, look()]);
    if (record === true || gone.aborted) return true;
    const last = record?.messages.findLast(({ role }) => role === "user");
    const there = record && (record.running === turn || (last && last.id !== before && last.content === text));
    if (!there) return false;
    came(turn);
    if (record.running !== turn) await close(turn, { name: "final" });
    return true;
  }

  return { send, exchange };
}

/** What goes with a message, as a request says it. @param {More} more */
function fields({ attachments = [], prompt, resources = [] }) {
  return {
    ...(attachments.length && { attachments: attachments.map(({ id }) => id) }),
    ...(prompt && { prompt }),
    ...(resources.length && { resources: resources.map(({ server, uri }) => ({ server, uri })) }),
  };
}

/** A message as the page shows it until the record has it. @param {string} text @param {More} [more] */
function said(text, { attachments = [], prompt, resources = [] } = {}) {
  const files = [
    ...attachments.map(({ id, name, type }) => ({ upload_id: id, name, media_type: type })),
    ...resources.map(({ server, uri, name }) => ({ server, uri, name: name ?? uri })),
  ];
  return { parts: [{ kind: "text", text }], files, prompt, state: "done" };
}

/** Put a message and an empty answer on the page, behind what stays there. */
function begin(question, keep = (all) => (draft.value === question.parts[0].text && setDraft(""), all)) {
  batch(() => {
    dismiss();
    working.value = true;
    ask(question, keep(messages.value));
  });
}

/** It is in the text field the next time, unless something else stands there. @param {string} key @param {string} [text] @returns {false} */
function setAside(key, text) {
  if (text && !recall(key) && !isOfNobody(key)) remember(key, text);
  return false;
}

/** The server did not take the message: it goes back into the text field. */
async function refuse(text, error) {
  if (!draft.value) setDraft(text);
  if (error.status === 400) await restore().catch(() => {}); // 400: perhaps no longer connected
  report(connection.value ? error : strings.errors.notConnected);
}

/** @returns {Promise<{name: string, data: any} | null>} how a turn's own stream has ended; null if it broke off */
async function ending(body) {
  let last = null;
  try {
    for await (const event of events(body)) last = event;
  } catch {
    // The line tells what becomes of the turn.
  }
  return last?.name === "final" || last?.name === "error" ? last : new Promise(() => {});
}

const pause = (ms) => new Promise((resume) => setTimeout(resume, ms));
