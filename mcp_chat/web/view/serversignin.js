/** The way to a server's own sign-in. */
import { html } from "../html.js";
import { loadServers } from "../servers.js";
import { strings } from "../strings.js";
import { signInAddress } from "../switching.js";
import { useSignal } from "../vendor/signals.js";
import { act } from "./act.js";
import { Address } from "./address.js";

/** @param {{server: import("../servers.js").Connected}} props one that is waited for */
export function SignIn({ server: { alias } }) {
  const url = useSignal(null);
  const ask = () => act(signInAddress(alias).then((found) => (found ? (url.value = found) : loadServers())));
  if (url.value && URL.canParse(url.value) && /^https?:/.test(url.value)) {
    return html`<${Address} url=${url.value} why=${strings.servers.signInAt} done=${() => (url.value = null)} />`;
  }
  return html`<button type="button" class="button small primary" data-testid="server-sign-in" onClick=${ask}>${strings.signIn.submit}</button>`;
}
