/** What the user has allowed for longer, and how to take it back. */
import { distinct } from "../format.js";
import { grants, revoke, revokeAll } from "../grants.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { act } from "./act.js";
import { Icon } from "./icon.js";

export function Grants() {
  if (!grants.value.length) return null;
  return html`
    <section class="server grants" data-testid="grants">
      <h3>${strings.grants.title}</h3>
      <ul>${grants.value.map((grant) => html`<${Grant} key=${grant.id} grant=${grant} />`)}</ul>
      ${grants.value.length > 1 && html`
        <button type="button" class="button small" data-testid="revoke-all" onClick=${() => act(revokeAll())}>${strings.grants.revokeAll}</button>`}
    </section>
  `;
}

/** @param {{grant: import("../grants.js").Grant}} props */
function Grant({ grant }) {
  const label = strings.grants.revoke(distinct(grant.name));
  return html`
    <li data-testid="grant" data-tool=${grant.name}>
      <span><code dir="auto">${distinct(grant.name)}</code> <small dir="auto">${distinct(grant.server)}, ${strings.grants.kinds[grant.kind] ?? grant.kind}</small></span>
      <button type="button" class="icon-button small" aria-label=${label} title=${label} data-testid="revoke" onClick=${() => act(revoke(grant))}>
        <${Icon} name="close" />
      </button>
    </li>
  `;
}
