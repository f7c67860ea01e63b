/** The live line: a conversation's events, kept open between turns and over whatever breaks it. */
import { watch } from "./api.js";
import { seat } from "./seats.js";
import { events } from "./sse.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;

/** A line that lived so long, or told something, was one; else the next attempt waits longer. */
const LIFE_MS = 5_000;

/** The server says something at least every 15 seconds; a line that is silent for longer is dead, say after a sleep. */
const SILENCE_MS = 40_000;

/** A tab that nobody sees gives its connection away: a browser has six for a server, and any number of tabs. */
const HIDDEN_MS = 5_000;

/**
 * Follow a conversation until it is left. What is told goes on where it broke off.
 * @param {{path: string, gone: AbortSignal, connected: (again: boolean) => Promise<void>,
 *   hear: (event: {name: string, data: any, id: string}) => Promise<void> | void, broken: (error: Error) => void, busy: () => boolean,
 *   without: () => void}} asking
 *   `connected`: awaited before the first event; `again`: nothing was missed; `busy`: something may come that its user has to
 *   know of even if they look elsewhere; `without`: somebody sees the page, and there is no line to be had for now.
 *   Throws if the conversation is not there.
 */
export async function follow({ path, gone, connected, hear, broken, busy, without }) {
  let place = "";
  let failures = 0;
  let robbed = false;
  const look = () => {
    place = ""; // the page begins anew, and so does the line
    without();
  };
  while (!gone.aborted) {
    const call = new AbortController();
    const over = AbortSignal.any([gone, call.signal]);
    let [since, failed] = [Infinity, false];
    const lives = () => Date.now() - since >= LIFE_MS;
    try {
      if (!busy()) await inSight(gone);
      (await seat(over, robbed, look)).addEventListener("abort", () => (robbed = true, call.abort()));
      robbed = false;
      const body = await watch(place ? `${path}&after=${place}` : path, over);
      await connected(Boolean(place));
      since = Date.now();
      let last = "";
      for await (const event of events(guarded(body, call, busy))) {
        if (gone.aborted) return;
        last = event.name;
        if (last === "reconnect") break;
        since = -Infinity;
        await hear(event);
        place = event.id || place;
      }
      failed = last !== "reconnect" || !lives(); // it just ended
    } catch (error) {
      if (gone.aborted) return;
      if (error.status === 404 || error.status === 401) throw error;
      failed = !call.signal.aborted;
      if (failed) broken(error);
    } finally {
      call.abort();
    }
    failures = (lives() ? 0 : failures) + (failed ? 1 : 0);
    await pause(failures, gone);
  }
}

/** Longer and longer, and not all tabs at once; at once when the network is back, or somebody looks. */
function pause(failures, gone) {
  if (gone.aborted) return Promise.resolve();
  const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.max(0, failures - 1));
  return new Promise((resume) => {
    const heard = new AbortController();
    const { signal } = heard;
    const go = () => (clearTimeout(timer), heard.abort(), resume());
    const timer = setTimeout(go, failures ? longest * (0.5 + Math.random() / 2) : 0);
    addEventListener("online", go, { signal });
    document.addEventListener("visibilitychange", () => document.hidden || go(), { signal });
    gone.addEventListener("abort", go, { signal });
  });
}

/** Wait until somebody looks. @param {AbortSignal} gone */
function inSight(gone) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resume) => {
    const heard = new AbortController();
    const go = () => (heard.abort(), resume());
    document.addEventListener("visibilitychange", () => document.hidden || go(), { signal: heard.signal });
    gone.addEventListener("abort", go, { signal: heard.signal });
  });
}

/** A body whose call is given up when it is dead, or nobody looks. @param {ReadableStream} body @param {AbortController} call @param {() => boolean} busy */
function guarded(body, call, busy) {
  let last = Date.now();
  let hiding = 0;
  const { signal } = call;
  const check = () => Date.now() - last > SILENCE_MS && call.abort();
  const rest = () => (busy() ? (hiding = setTimeout(rest, HIDDEN_MS)) : call.abort());
  const onSight = () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(rest, HIDDEN_MS);
    else check();
  };
  const timer = setInterval(check, SILENCE_MS / 4);
  signal.addEventListener("abort", () => (clearInterval(timer), clearTimeout(hiding)));
  document.addEventListener("visibilitychange", onSight, { signal });
  addEventListener("online", check, { signal });
  addEventListener("offline", () => call.abort(), { signal });
  if (document.hidden) onSight();
  const note = (chunk, out) => {
    last = Date.now();
    out.enqueue(chunk);
  };
  return body.pipeThrough(new TransformStream({ transform: note }));
}
