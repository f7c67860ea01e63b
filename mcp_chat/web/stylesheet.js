/** Style sheets of what is not on the first page. */

/** @type {Map<string, Promise<void>>} */
const asked = new Map();

/** Fetch one, if it was not. @param {string} path beside this file @returns {Promise<void>} settled once it counts */
export function stylesheet(path) {
  if (!asked.has(path)) asked.set(path, fetched(path));
  return asked.get(path);
}

function fetched(path) {
  return new Promise((done, failed) => {
    const lost = () => {
      asked.delete(path);
      sheet.remove();
      failed(new Error(path));
    };
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", onload: () => done(), onerror: lost });
    sheet.href = new URL(path, import.meta.url).href;
    document.head.append(sheet);
  });
}
