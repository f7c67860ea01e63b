/** An address that somebody else wants opened: shown in full, and opened by the user's own click only. */
import { html } from "../html.js";
import { visible } from "../format.js";
import { strings } from "../strings.js";

/** @param {{url: string, why: string, done: (opened: boolean) => void}} props an `http` or `https` address */
export function Address({ url, why, done }) {
  return html`
    <div class="address" role="group" aria-label=${why} data-testid="address">
      <p>${why}</p>
      <${FullAddress} url=${url} />
      <div class="buttons">
        <a class="button small primary" href=${url} target="_blank" rel="noopener noreferrer" data-testid="address-open"
          onClick=${() => done(true)}>${strings.address.open}</a>
        <button type="button" class="button small" data-testid="address-refuse" onClick=${() => done(false)}>${strings.address.refuse}</button>
      </div>
    </div>
  `;
}

/** All of it as text, the host so that nobody overlooks it. @param {{url: string}} props */
export function FullAddress({ url }) {
  const { host, href } = new URL(url);
  const [before] = /^[a-z]+:\/\/(?:[^/?#]*@)?/.exec(href);
  const all = url.startsWith(before + host) ? url : href; // a name may be written in more than one way
  const at = before.length;
  const punycode = host.split(".").some((label) => label.startsWith("xn--"));
  return html`
    <p class="url" dir="ltr" data-testid="url">${visible(before)}<b>${visible(host)}</b>${visible(all.slice(at + host.length))}</p>
    ${punycode && html`<p class="aside">${strings.address.punycode}</p>`}
  `;
}
