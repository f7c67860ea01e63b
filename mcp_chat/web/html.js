/** The template tag that all views are written with: no compiler, no build. */
import htm from "./vendor/htm.js";
import { h } from "./vendor/preact.js";

export const html = htm.bind(h);
