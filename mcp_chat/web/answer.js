/** An answer on its way: events painted into a message. */
import { fold } from "./turn.js";

/**
 * Any number of events, one repaint per frame. A hidden tab has no frames: there only the flush counts.
 * @param {import("./messages.js").Shown} message
 */
export function paintOn(message) {
  let next = message.value;
  let due = 0;
  const flush = () => {
    cancelAnimationFrame(due);
    due = 0;
    message.value = next;
  };
  const add = (event) => {
    next = fold(next, event);
    due ||= requestAnimationFrame(flush);
  };
  return { add, flush };
}
