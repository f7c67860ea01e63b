/** Something to know, as opposed to something that went wrong. */
import { html } from "../html.js";
import { Icon } from "./icon.js";

/** @param {{text: string, testid?: string}} props */
export const Notice = ({ text, testid }) =>
  html`<p class="notice" data-testid=${testid}><${Icon} name="info" /><span>${text}</span></p>`;
