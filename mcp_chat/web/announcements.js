/** What those hear who do not see the page: that an answer has begun, what runs, what waits for them, and the answer once. */
import { approvals } from "./approvals.js";
import { distinct, toolName } from "./format.js";
import { formats } from "./language.js";
import { questions } from "./questions.js";
import { announcement, messages, working } from "./session.js";
import { nameOf, open } from "./sessions.js";
import { strings } from "./strings.js";
import { computed, effect, signal } from "./vendor/signals.js";

const PAUSE_MS = 1500; // so that a row of short calls is one remark

/** Said when there is room for it. */
export const said = signal("");

/** What waits for the user: said at once. */
export const urgent = computed(() => [...approvals.value.map(titleOf), ...questions.value.map(questionOf)].join(" "));

/** How many wait. */
export const waiting = computed(() => approvals.value.length + questions.value.length);

const titleOf = ({ server, name }) => strings.announcement.approval(distinct(server), distinct(name));
const questionOf = ({ server }) => strings.announcement.question(distinct(server));

/** What goes on, as one short sentence; that an answer goes on is no news between two calls. */
const going = computed(() => {
  if (!working.value) return announcement.value;
  const tools = running(messages.value.at(-1)?.value);
  return tools.length ? strings.announcement.running(formats().list(tools)) : strings.announcement.began;
});

/** @param {import("./turn.js").Message | undefined} message @returns {string[]} */
const running = (message) =>
  message?.role === "assistant" ? [...new Set(message.parts.filter(({ kind, state }) => kind === "tool" && state === "running").map(({ tool }) => distinct(toolName(tool).name)))] : [];

/** Say it from now on, and in the window's title that something waits. @returns {() => void} ends it */
export function announce() {
  let [timer, began] = [0, false];
  const say = (text) => {
    clearTimeout(timer);
    if (text === strings.announcement.began && began) return;
    began = working.peek();
    timer = setTimeout(() => (said.value = text), text === announcement.peek() ? 0 : PAUSE_MS * Boolean(said.peek()));
  };
  const ends = [effect(() => say(going.value)), effect(() => entitle(waiting.value, open.value ? nameOf(open.value) : ""))];
  return () => ends.forEach((end) => end());
}

/** @param {number} count of what waits @param {string} name of the conversation */
function entitle(count, name) {
  const title = name ? `${name} · ${strings.product}` : strings.product;
  document.title = count ? strings.announcement.title(formats().number(count), title) : title;
  const badge = count ? navigator.setAppBadge?.(count) : navigator.clearAppBadge?.();
  badge?.catch(() => {}); // of an installed page only
}
