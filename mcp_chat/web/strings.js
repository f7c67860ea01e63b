/** Every word the page shows, in the reader's language: a view that reads one is painted again when that changes. */
import { begin, words } from "./language.js";

await begin();

/** @type {import("./languages/en.js").Words} */
export const strings = new Proxy({}, { get: (_, name) => words()[name] });
