/** What goes with the next message besides its words: a prompt, files and resources, kept with the draft. */
import { connection, model } from "./connection.js";
import { isOfBefore, sessionId, shown, visit } from "./conversation.js";
import { isOfNobody, user } from "./principal.js";
import { prompt, promptOf } from "./prompts.js";
import { chosen, template } from "./resources.js";
import { recall, remember } from "./storage.js";
import { files, put } from "./uploads.js";
import { batch, computed, effect, untracked } from "./vendor/signals.js";

const LONGEST = 50_000; // characters that a draft may take in the browser's memory

/** Whether there is any, finished or not. */
export const some = computed(() => Boolean(prompt.value || template.value || files.value.length || chosen.value.length));

/** Whether a message could be nothing but this. */
export const enough = computed(() => Boolean(prompt.value || chosen.value.length || ready().length));

/** Whether a file is on its way still. */
export const arriving = computed(() => files.value.some(({ state }) => state === "sending"));

/** Whether a picture goes to a model that sees none. */
export const unseen = computed(() => model.value?.supports_vision === false && pictures().length > 0);

const ready = () => files.value.filter(({ state }) => state === "ready");
const isPicture = (type) => Boolean(type?.startsWith("image/"));
const pictures = () => [...files.value.map(({ type }) => type), ...chosen.value.map(({ media_type: type }) => type)].filter(isPicture);

/** What of it a message is sent with. @returns {import("./session.js").More} */
export const enclosed = () => ({
  attachments: ready().map(({ id, name, type }) => ({ id, name, type })),
  resources: chosen.value,
  ...(prompt.value && { prompt: promptOf(prompt.value) }),
});

/** All that is kept of it. */
export const kept = () => ({ files: ready().map(({ id, name, type, size }) => ({ id, name, type, size })), resources: chosen.value, prompt: prompt.value });

/** @param {Partial<ReturnType<typeof kept>>} [what] nothing, if none is given */
export const show = ({ files: all = [], resources = [], prompt: of = null } = {}) =>
  batch(() => {
    put(all);
    chosen.value = resources;
    prompt.value = of;
    template.value = null;
  });

/** Show what belongs to the conversation on the page, and keep what changes. @returns {() => void} an end to that */
export function keepEnclosed() {
  let key = "";
  return effect(() => {
    const [now, text] = [keyOf(), JSON.stringify(kept())];
    const stays = now === key || isOfBefore(key);
    key = now;
    if (stays) store(key, text);
    else untracked(() => show(JSON.parse(recall(key) || "{}")));
  });
}

/** Where something is meant for: the conversation on the page, which may get its id or give way to another one. */
export const here = () => ({ key: keyOf(), visit: visit() });

/** Put back what was not taken, where it was meant for. @param {ReturnType<typeof kept>} what @param {ReturnType<typeof here>} where */
export function putBack(what, { key, visit: of }) {
  if (isOfNobody(key)) return;
  if (of !== visit()) store(key, JSON.stringify(what));
  else if (!enough.value) show(what);
}

const store = (key, text) => remember(key, text.length > LONGEST || text === NOTHING ? "" : text);

const NOTHING = JSON.stringify({ files: [], resources: [], prompt: null });

/** One for each conversation; the default one's outlives a connection. */
const keyOf = () => `enclosed:${user.value?.id}${shown.value && shown.value !== connection.value?.sessionId ? `:${sessionId()}` : ""}`;
