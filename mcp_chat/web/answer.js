/** An answer on its way: the events of a stream, painted into a message. */
import { events } from "./sse.js";
import { fold } from "./turn.js";

const LAST = new Set(["final", "error"]);

/**
 * Read a turn to its end.
 * @param {ReadableStream<Uint8Array>} body
 * @param {{value: import("./turn.js").Message}} message
 * @returns {Promise<boolean>} false if the stream broke before the turn was over
 */
export async function receive(body, message) {
  const canvas = paintOn(message);
  let ended = false;
  try {
    for await (const event of events(body)) {
      canvas.add(event);
      ended ||= LAST.has(event.name); // read on to the close, so that the connection can be used again
    }
  } catch {
    // The network broke, or someone hung up: the caller looks up what became of the turn.
  } finally {
    canvas.flush();
  }
  return ended;
}

/** Any number of events, one repaint per frame. A hidden tab has no frames: there only the flush counts. */
function paintOn(message) {
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
