/** The page: what is shown depends on who is signed in and whether they are connected. */
import { connection } from "../connection.js";
import { focus } from "../focus.js";
import { html } from "../html.js";
import { user } from "../principal.js";
import { problem } from "../problem.js";
import { drawer, isOpen } from "../sidebar.js";
import { strings } from "../strings.js";
import { Announcer } from "./announcer.js";
import { Banner } from "./banner.js";
import { Chat } from "./chat.js";
import { Header } from "./header.js";
import { lazy } from "./lazy.js";
import { Sidebar } from "./sidebar.js";

const Setup = lazy(() => import("./setup.js").then((module) => module.Setup), "style/dialog.css");
const SignIn = lazy(() => import("./signin.js").then((module) => module.SignIn));

export function App() {
  const chatting = Boolean(user.value && connection.value);
  return html`
    <${Skip} />
    ${chatting && html`<${Sidebar} />`}
    <div class="page" inert=${chatting && drawer.value && isOpen.value}>
      <${Header} />
      <${Banner} />
      <${Body} />
    </div>
    <${Announcer} />
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

/** Past the header, for those who come with the keyboard. */
function Skip() {
  const skip = (event) => {
    event.preventDefault();
    focus(".composer textarea") || focus("main input, main select, main button");
  };
  return html`<a class="skip button small" href="#app" data-testid="skip" onClick=${skip}>${strings.skip}</a>`;
}
