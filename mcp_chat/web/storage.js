/** What this browser tab remembers over a reload: the access token and the unsent draft. Gone when the tab closes. */

/** @param {string} key @returns {string} */
export function recall(key) {
  try {
    return sessionStorage.getItem(`mcp-chat:${key}`) ?? "";
  } catch {
    return ""; // a browser may forbid storage: the chat works without
  }
}

/** @param {string} key @param {string} value an empty value is forgotten */
export function remember(key, value) {
  try {
    if (value) sessionStorage.setItem(`mcp-chat:${key}`, value);
    else sessionStorage.removeItem(`mcp-chat:${key}`);
  } catch {
    /* see recall */
  }
}
