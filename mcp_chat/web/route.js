/** The page's address: which conversation is shown, and which of its messages is looked for. */

const FORM = /^#\/c\/([\w.:-]{1,64})(?:\/m\/([\w.:-]{1,64}))?$/;

/** @typedef {{session: string | null, message: string | null}} Route without a session it is the default one */

/** @returns {Route | null} null for an address that says nothing of conversations */
export function route() {
  if (location.hash.length < 2) return { session: null, message: null };
  const [, session, message = null] = FORM.exec(location.hash) ?? [];
  return session ? { session, message } : null;
}

/** Go to a conversation; the browser's own button leads back. @param {string | null} session @param {string} [message] */
export const go = (session, message) => write("pushState", session, message);

/** Say in the address what is shown already. @param {string | null} session */
export const correct = (session) => write("replaceState", session);

/** @param {"pushState" | "replaceState"} how */
function write(how, session, message) {
  const hash = session ? `#/c/${session}${message ? `/m/${message}` : ""}` : "";
  if (hash !== location.hash) history[how](null, "", location.pathname + location.search + hash);
}

/** @param {(route: Route) => void} handler called when the user goes back or forth, or follows a link */
export const onRoute = (handler) => addEventListener("popstate", () => route() && handler(route()));
