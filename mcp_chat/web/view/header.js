/** The line at the top: what we are connected to, and as whom. */
import { connection } from "../connection.js";
import { visible } from "../format.js";
import { html } from "../html.js";
import { elsewhere, signOut, user } from "../principal.js";
import { dismiss, report } from "../problem.js";
import { leave } from "../start.js";
import { strings } from "../strings.js";
import { useSignal } from "../vendor/signals.js";
import { Icon, Mark } from "./icon.js";
import { Tools } from "./tools.js";

export function Header() {
  return html`
    <header class="header">
      <div class="brand"><${Mark} /><span>${strings.product}</span></div>
      ${user.value && connection.value && html`<${Status} connection=${connection.value} />`}
      ${user.value && html`<${Person} id=${user.value.id} />`}
    </header>
  `;
}

/** @param {{connection: import("../connection.js").Connection}} props */
function Status({ connection: { server, model, tools } }) {
  const leaving = useSignal(false);
  const label = leaving.value ? strings.status.disconnecting : strings.status.disconnect;
  return html`
    <div class="status">
      <span class="badge" title=${visible(`${server} · ${model}`)} data-testid="connected-badge">
        <span class="dot" /><span class="visually-hidden">${strings.status.connected}: </span>
        <b dir="auto">${visible(server)}</b><span class="model" dir="auto">${visible(model)}</span>
      </span>
      <${Tools} names=${tools} />
      <button type="button" class="button small quiet" data-testid="disconnect" disabled=${leaving.value}
        aria-label=${label} title=${label} onClick=${() => during(leaving, leave)}>
        <${Icon} name="plug" /><span class="wide">${label}</span>
      </button>
    </div>
  `;
}

/** @param {{id: string}} props */
function Person({ id }) {
  const leaving = useSignal(false);
  return html`
    <div class="person">
      <span class="avatar" aria-hidden="true">${[...id][0]?.toUpperCase()}</span>
      <span class="name wide" dir="auto" title=${strings.signIn.signedIn(id)}>${id}</span>
      ${!elsewhere() && html`
        <button type="button" class="button small quiet" data-testid="sign-out" disabled=${leaving.value}
          aria-label=${strings.signIn.signOut} title=${strings.signIn.signOut} onClick=${() => during(leaving, signOut)}>
          <${Icon} name="signOut" /><span class="wide">${strings.signIn.signOut}</span>
        </button>
      `}
    </div>
  `;
}

/** Do something once, however often the button is pressed. @param {{value: boolean}} busy @param {() => Promise<void>} action */
async function during(busy, action) {
  busy.value = true;
  dismiss();
  await action().catch(report);
  busy.value = false;
}
