/** Words that are looked for in all of the user's conversations, and the messages that have them. */
import { get, post } from "./api.js";
import { sessionId } from "./conversation.js";
import { user } from "./principal.js";
import { reload, show } from "./session.js";
import { query } from "./sidebar.js";
import { batch, effect, signal, untracked } from "./vendor/signals.js";

const PAUSE_MS = 250;
const WORD = /[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|(?:(?![\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])[\p{L}\p{N}\p{M}])+/gu;

/** @typedef {{session_id: string, session_name: string, excerpt: string, branch: string | null, message: {id: string, role: string, created_at: string}}} Found */

/** undefined until the first answer, null if nothing is looked for. @type {{value: Found[] | null | undefined}} */
export const results = signal(null);

/** Where the next page begins; null at the end. @type {{value: string | null}} */
export const further = signal(null);

/** Why nothing could be looked for. */
export const fault = signal("");

let sought = "";
let pause = 0;
let edition = 0;

/** Look for something once the user has stopped writing, if it is not found already. @param {string} text */
export function seek(text) {
  if (text === sought) return;
  sought = text;
  clearTimeout(pause);
  edition += 1;
  fault.value = "";
  if (wordsIn(text).length) {
    results.value ??= undefined;
    pause = setTimeout(find, PAUSE_MS);
  } else batch(() => ([results.value, further.value] = [null, null]));
}

/** Where nothing is looked for any more, nothing stays found: another user may come. */
effect(() => void (query.value.trim() || untracked(() => seek(""))));

async function find() {
  const asked = edition;
  const found = await get(path()).catch((error) => ({ results: [], before: null, fault: error.message }));
  if (asked === edition) batch(() => ([results.value, further.value, fault.value] = [found.results, found.before, found.fault ?? ""]));
}

/** Read the next page. */
export async function findFurther() {
  const [asked, cursor] = [edition, further.value];
  if (!cursor) return;
  const found = await get(`${path()}&before=${encodeURIComponent(cursor)}`);
  if (asked !== edition || cursor !== further.value) return;
  batch(() => ([results.value, further.value] = [[...results.value, ...found.results], found.before]));
}

const path = () => `llmchat/search?q=${encodeURIComponent(query.value)}`;

/** Show a message that was found where it was said. @param {Found} found */
export async function goTo({ session_id: session, message, branch }) {
  const where = `llmchat/sessions/${encodeURIComponent(session)}/branches/`;
  if (branch) await post(where + encodeURIComponent(branch), { user_id: user.value.id });
  if (branch && session === sessionId()) await reload();
  await show(session, message.id);
}

/**
 * A text in pieces, and which of them were looked for: words that begin as one of the query does.
 * @param {string} text @param {string} sought @returns {{text: string, found: boolean}[]}
 */
export function marked(text, sought) {
  const wanted = wordsIn(sought).map(folded);
  const pieces = [];
  let end = 0;
  for (const { 0: word, index } of text.matchAll(WORD)) {
    if (!wanted.some((each) => folded(word).startsWith(each))) continue;
    pieces.push({ text: text.slice(end, index), found: false }, { text: word, found: true });
    end = index + word.length;
  }
  return [...pieces, { text: text.slice(end), found: false }].filter((piece) => piece.text);
}

/** @param {string} text */
const wordsIn = (text) => text.match(WORD) ?? [];

/** Without case and accents, as the server searches. @param {string} word */
const folded = (word) => word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
