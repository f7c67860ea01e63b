/** When a message was said: written by the style sheet, so that it is not among what one selects and copies. */
import { moment } from "../format.js";
import { html } from "../html.js";

/** @param {{at?: string}} props when it was said */
export function When({ at }) {
  if (!at) return null;
  const { short, long } = moment(at);
  return html`<time datetime=${at} title=${long} data-short=${short} data-testid="time" />`;
}
