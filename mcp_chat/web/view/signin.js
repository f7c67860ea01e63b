/** The door: a name in demo mode, an access token, or the way to where one signs in. */
import { html } from "../html.js";
import { elsewhere, identify, mode, signIn } from "../principal.js";
import { dismiss, report } from "../problem.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { Mark } from "./icon.js";

export const SignIn = () => (elsewhere() ? html`<${Elsewhere} />` : html`<${Door} />`);

function Elsewhere() {
  const busy = useSignal(false);
  const look = async () => {
    busy.value = true;
    await identify().then(dismiss, report);
    busy.value = false;
  };
  return html`
    <main class="middle">
      <div class="card door">
        <${Mark} />
        <h1>${strings.signIn.title}</h1>
        <p class="lead">${strings.signIn.elsewhere}</p>
        <button type="button" class="button primary" data-testid="look-again" disabled=${busy.value} onClick=${look}>
          ${strings.signIn.again}
        </button>
      </div>
    </main>
  `;
}

function Door() {
  const busy = useSignal(false);
  const field = useRef(null);
  useLayoutEffect(() => field.current.focus(), []);
  const demo = mode.value === "demo";
  const submit = async (event) => {
    event.preventDefault();
    const secret = field.current.value.trim();
    if (!secret || busy.value) return;
    busy.value = true;
    await signIn(secret).then(dismiss, report);
    busy.value = false;
  };
  return html`
    <main class="middle">
      <form class="card door" onSubmit=${submit}>
        <${Mark} />
        <h1>${strings.signIn.title}</h1>
        <p class="lead">${demo ? strings.signIn.demo : strings.signIn.jwt}</p>
        <label class="field">
          <span>${demo ? strings.signIn.name : strings.signIn.token}</span>
          <input ref=${field} required autocomplete=${demo ? "username" : "off"} spellcheck=${false} autocapitalize="off"
            type=${demo ? "text" : "password"} placeholder=${demo ? strings.signIn.placeholder : ""} dir="auto"
            maxlength=${demo ? 128 : undefined} data-testid=${demo ? "user-input" : "token-input"} />
        </label>
        <button class="button primary" data-testid="sign-in" disabled=${busy.value}>
          ${busy.value ? strings.signIn.busy : strings.signIn.submit}
        </button>
      </form>
    </main>
  `;
}
