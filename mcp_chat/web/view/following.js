/** Which of the messages are on the page, where the reader is among them, and what keeps them there. */
import { visit } from "../conversation.js";
import { loadOlder, messages, older, target } from "../session.js";
import { report } from "../problem.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";

const NEAR_PX = 48;

/** So far from its end the page is lengthened already. */
const EARLY_PX = 1500;

/** Messages that the page has at first, by which it is lengthened, and that it has at most. */
const FIRST = 60;
const STEP = 40;
const MOST = 160;

/** So long things around a message that was looked for may still be drawn. */
const SETTLE_MS = 1500;

/**
 * The part of the messages that is on the page: from one to another, named by their ids; without names it is the newest ones.
 * @typedef {{from: string | null, to: string | null}} Extent
 */

/** Keep the end in view while the content grows, until the reader scrolls away from it. */
export function useFollowing() {
  const [view, content, away, extent] = [useRef(null), useRef(null), useSignal(false), useSignal({ from: null, to: null })];
  const follow = () => {
    extent.value = { from: null, to: null };
    away.value = false;
    view.current.scrollTop = view.current.scrollHeight;
  };
  useLayoutEffect(() => {
    const box = view.current;
    const onScroll = () => (away.value = Boolean(extent.value.to) || box.scrollHeight - box.scrollTop - box.clientHeight > NEAR_PX);
    let held = false; // a card that the reader opens shall not jump away under the pointer
    const onClick = (event) => (held = Boolean(event.target.closest("summary")));
    const onResize = () => (held ? onScroll() : away.value || follow(), (held = false));
    const watcher = new ResizeObserver(onResize);
    box.addEventListener("scroll", onScroll, { passive: true });
    box.addEventListener("click", onClick);
    for (const element of [box, content.current]) watcher.observe(element);
    return () => watcher.disconnect();
  }, []);
  const last = messages.value.at(-1)?.peek();
  useLayoutEffect(() => (last?.pending || !away.value) && follow(), [last?.id]); // a message of one's own is always looked at
  useLayoutEffect(follow, [messages.value.length > 0]); // another conversation begins at its end
  return { view, content, away, extent, follow };
}

/** @param {Extent} extent @returns {[number, number]} where it begins, and where it has ended */
function rangeOf({ from, to }) {
  const all = messages.value;
  const place = (id) => (id ? all.findIndex((one) => one.peek().id === id) : -1);
  const end = place(to) + 1 || all.length;
  const start = place(from);
  return [start < 0 ? Math.max(0, end - FIRST) : start, end];
}

/** @param {number} start @param {number} end @returns {Extent} at most so long, and without a name at the newest message */
function extentOf(start, end) {
  const all = messages.value;
  return { from: all[Math.max(0, start)]?.peek().id ?? null, to: end < all.length ? all[end - 1].peek().id : null };
}

/** Lengthen the page before the reader comes to its end, shorten it at the other one, and leave the reader where they are. */
export function useExtent({ view, content, away, extent }) {
  const loading = useSignal(false);
  const anchor = useRef(null);
  const [start, end] = rangeOf(extent.value);
  const set = (next) => {
    anchor.current = anchorIn(view.current, content.current);
    extent.value = next;
  };
  const up = async () => {
    if (loading.value) return;
    loading.value = true;
    if (!rangeOf(extent.value)[0] && older.value) {
      extent.value = extentOf(...rangeOf(extent.value)); // by name: what is read now comes before it
      await loadOlder().catch(report);
    }
    const [first, behind] = rangeOf(extent.value);
    if (first) set(extentOf(first - STEP, Math.min(behind, first - STEP + MOST)));
    loading.value = false;
  };
  const down = () => {
    const [first, behind] = rangeOf(extent.value);
    if (behind < messages.value.length) set(extentOf(Math.max(first, behind + STEP - MOST), behind + STEP));
  };
  const beginning = async () => {
    const { gone } = visit();
    away.value = loading.value = true;
    while (!gone.aborted && older.value && (await moreComes())); // each page of them
    loading.value = false;
    if (gone.aborted) return;
    extent.value = extentOf(0, FIRST);
    requestAnimationFrame(() => (view.current.scrollTop = 0));
  };
  useLayoutEffect(() => {
    const { element, top } = anchor.current ?? {};
    anchor.current = null;
    if (element?.isConnected && away.value) view.current.scrollTop += element.getBoundingClientRect().top - top;
  }, [extent.value]);
  useEffect(() => {
    const box = view.current;
    const onScroll = () => {
      if (!away.value) return;
      if (box.scrollTop < EARLY_PX) up();
      else if (box.scrollHeight - box.scrollTop - box.clientHeight < EARLY_PX) down();
    };
    box.addEventListener("scroll", onScroll, { passive: true });
    return () => box.removeEventListener("scroll", onScroll);
  }, []);
  return { loading, up, beginning, start, shown: messages.value.slice(start, end) };
}

/** @returns {Promise<boolean>} whether older messages have come */
async function moreComes() {
  const before = messages.value.length;
  await loadOlder().catch(report);
  return messages.value.length > before;
}

/** The first message that the reader sees, and where. @param {Element} view @param {Element} content */
function anchorIn(view, content) {
  const { top: edge } = view.getBoundingClientRect();
  const element = [...content.querySelectorAll(":scope > .message")].find((one) => one.getBoundingClientRect().bottom > edge);
  return element && { element, top: element.getBoundingClientRect().top };
}

/** Lead the reader to the message that is looked for, as soon as it is drawn, and until all around it is. */
export function useTarget({ content, away, extent }) {
  const id = target.value;
  useEffect(() => {
    const place = messages.value.findIndex((one) => one.peek().id === id);
    if (!id || place < 0) return undefined;
    away.value = true;
    extent.value = extentOf(place - STEP, place + STEP);
    let led = false;
    const lead = () => {
      const found = content.current.querySelector(`:scope > [data-message="${CSS.escape(id)}"]`);
      if (found && !led) found.focus({ preventScroll: true });
      led ||= Boolean(found);
      found?.scrollIntoView({ block: "center" });
    };
    const watcher = new ResizeObserver(lead);
    watcher.observe(content.current);
    const timer = setTimeout(() => watcher.disconnect(), SETTLE_MS);
    return () => (watcher.disconnect(), clearTimeout(timer));
  }, [id]);
}
