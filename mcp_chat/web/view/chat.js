/** The conversation with what is asked in it, and the text field under it. */
import { html } from "../html.js";
import { Composer } from "./composer.js";
import { Thread } from "./thread.js";

export const Chat = () => html`<${Thread} /><${Composer} />`;
