/** Who of all tabs may keep a connection: a browser has six for a server, and the requests of all tabs need some, too. */

const SEATS = Array.from({ length: 4 }, (_, number) => `mcp-chat-line-${number}`);
const LOOK_MS = 10_000;

/** What somebody does who is at this tab. */
const SIGNS = ["focus", "pointerdown", "keydown"];

/**
 * Wait for one of the seats. The tab that somebody uses takes one from another tab.
 * @param {AbortSignal} gone @param {boolean} robbed whether another one has just taken this tab's: it takes none back unless used
 * @param {() => void} look called now and then while somebody sees this tab and it has no seat
 * @returns {Promise<AbortSignal>} aborted when the seat is lost; it is given back with `gone`
 */
export async function seat(gone, robbed, look) {
  if (!navigator.locks) return new AbortController().signal; // without HTTPS tabs cannot agree
  for (let used = !robbed && document.hasFocus(); !gone.aborted; used = await sign(gone)) {
    for (const name of SEATS) {
      const free = await sit(name, { ifAvailable: true }, gone);
      if (free) return free;
    }
    if (gone.aborted) break;
    if (used) return sit(SEATS[Math.floor(Math.random() * SEATS.length)], { steal: true }, gone);
    if (!document.hidden) look();
  }
  return gone;
}

/** @param {string} name @param {LockOptions} how @returns {Promise<AbortSignal | null>} null if somebody else has it */
function sit(name, how, gone) {
  const lost = new AbortController();
  return new Promise((resume) => {
    const hold = (lock) => {
      resume(lock && lost.signal);
      return lock && !gone.aborted && new Promise((leave) => gone.addEventListener("abort", () => leave(), { once: true }));
    };
    navigator.locks.request(name, how, hold).then(() => {}, () => {
      resume(new AbortController().signal); // where a browser forbids locks, as some do in frames of other sites; else this comes too late
      lost.abort();
    });
  });
}

/** @returns {Promise<boolean>} whether somebody is at this tab; else it is time to look for a free seat again */
function sign(gone) {
  return new Promise((resume) => {
    const heard = new AbortController();
    const { signal } = heard;
    const say = (used) => (heard.abort(), clearTimeout(timer), resume(used));
    const timer = setTimeout(() => say(false), LOOK_MS);
    for (const name of SIGNS) addEventListener(name, () => say(true), { signal, capture: true, passive: true });
    addEventListener("visibilitychange", () => document.hidden || say(document.hasFocus()), { signal });
    gone.addEventListener("abort", () => say(false), { signal });
  });
}
