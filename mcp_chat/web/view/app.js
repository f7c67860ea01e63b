/** The page: what is shown depends on who is signed in and whether they are connected. */
import { connection } from "../connection.js";
import { html } from "../html.js";
import { user } from "../principal.js";
import { problem } from "../problem.js";
import { announcement } from "../session.js";
import { strings } from "../strings.js";
import { Banner } from "./banner.js";
import { Chat } from "./chat.js";
import { Header } from "./header.js";
import { Setup } from "./setup.js";
import { SignIn } from "./signin.js";

export function App() {
  return html`
    <${Header} />
    <${Banner} />
    <${Body} />
    <div class="visually-hidden" aria-live="polite">${announcement}</div>
  `;
}

function Body() {
  if (user.value === null) return html`<${SignIn} />`;
  if (user.value === undefined || connection.value === undefined) return html`<${Splash} />`;
  return connection.value ? html`<${Chat} />` : html`<${Setup} />`;
}

/** While the first questions are under way; quiet once one of them failed, for then the banner speaks. */
function Splash() {
  const spinner = html`<span class="spinner" role="status" aria-label=${strings.loading} />`;
  return html`<main class="splash">${!problem.value && spinner}</main>`;
}
