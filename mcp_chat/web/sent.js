/** What was sent and is not known to have arrived. */

/**
 * What each of these messages says, by its id. Sent again unchanged one keeps its id, and the server takes it once.
 * @type {Map<string, string>}
 */
const astray = new Map();

/** Who waits for a message to be told by the line, by its id. @type {Map<string, () => void>} */
const awaited = new Map();

/** The id of a message that is about to be sent. @param {object} own what the request says of it @returns {string} */
export function idOf(own) {
  const what = JSON.stringify(own);
  for (const [id, said] of astray) {
    if (awaited.has(id)) continue; // on its way: the same words are another message
    if (said === what) return id;
    astray.delete(id); // the user has given it up for this one
  }
  const id = newId();
  astray.set(id, what);
  return id;
}

/** Wait for the line to tell of a message. @param {string} id @returns {Promise<void>} */
export const told = (id) => new Promise((resume) => awaited.set(id, resume));

/** The server has answered: it will not be sent again. @param {string} id */
export const answered = (id) => astray.delete(id);

/** Nobody waits for a message any more. @param {string} id @returns {boolean} whether somebody did */
export const forsake = (id) => awaited.delete(id);

/** What was sent is in the conversation. @param {string} id */
export function came(id) {
  astray.delete(id);
  awaited.get(id)?.();
  awaited.delete(id);
}

/** Nothing that was sent in this conversation is waited for any more. */
export function forgetSent() {
  astray.clear();
  awaited.clear();
}

/** Not `randomUUID`: that is only there over HTTPS and on this machine. */
export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
