/** The list over the text field: prompts after `/` at the beginning, resources after `@`. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { begin, choosePrompt, prompts, resources } from "../offers.js";
import { report } from "../problem.js";
import { attach, MOST_RESOURCES } from "../resources.js";
import { offering } from "../servers.js";
import { draft, setDraft } from "../session.js";
import { strings } from "../strings.js";
import { useEffect, useLayoutEffect } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Menu, useMenu } from "./menu.js";
import { LIST } from "./signs.js";

const MOST = 50;

const LISTS = { prompts, resources };
const NOTHING = { items: [], failed: [], busy: false };

/** @param {{asked: {value: import("./signs.js").Asked | null}, list: import("./signs.js").List}} props */
export function Offers({ asked, list }) {
  const shut = useSignal(null);
  const kind = asked.value?.kind;
  const now = kind && kind !== shut.value && offering(kind).length ? asked.value : null;
  const of = now && LISTS[kind];
  const { items, failed, busy } = of?.shown.value ?? NOTHING;
  const options = now ? optionsOf(items, now.query) : [];
  const open = options.length > 0;
  const choose = (option) => take(option, asked);
  const { place, onKey } = useMenu(options, now?.query ?? "", choose, () => (shut.value = kind));
  useLayoutEffect(() => void (kind || (shut.value = null)), [kind]); // who closed it opens it by another sign
  useEffect(() => void of?.load(), [of]);
  useLayoutEffect(() => {
    list.onKey = onKey;
    [list.count.value, list.place.value] = [options.length, place];
    list.told.value = now ? (busy && !open ? strings.enclosed.loading : strings.enclosed.found(options.length)) : "";
  });
  return (open || busy) && html`
    <div class="offers">
      ${open && html`<${Menu} id=${LIST} label=${strings.enclosed[kind]} options=${options} place=${place} choose=${choose} />`}
      ${busy && !open && html`<p class="aside">${strings.enclosed.loading}</p>`}
      ${failed.length > 0 && html`<p class="aside" dir="auto">${strings.enclosed.unasked(visible(failed.join(", ")))}</p>`}
    </div>
  `;
}

/** Put what was chosen in the place of the words that asked for it. @param {{of: object}} option @param {{value: import("./signs.js").Asked | null}} asked */
function take({ of }, asked) {
  const { from, until } = asked.value;
  asked.value = null;
  setDraft(draft.value.slice(0, from) + draft.value.slice(until));
  if (of.uri) attach(of) || report(strings.enclosed.tooManyResources(MOST_RESOURCES));
  else if (of.template) begin(of);
  else choosePrompt(of);
}

/** Those that are called so; at first those whose names begin so. @param {object[]} items @param {string} query */
function optionsOf(items, query) {
  const wanted = query.toLowerCase();
  const named = items.map((of) => ({ of, text: textOf(of).toLowerCase(), name: (of.title || of.name).toLowerCase() }));
  const found = named.filter(({ text }) => text.includes(wanted));
  const rank = ({ of, name }) => (name.startsWith(wanted) || of.name.toLowerCase().startsWith(wanted) ? 0 : 1);
  return found.sort((one, other) => rank(one) - rank(other)).slice(0, MOST).map(({ of }) => optionOf(of));
}

const textOf = ({ name, title, uri, template, server }) => [name, title, uri, template, server].filter(Boolean).join("\n");

function optionOf(of) {
  const { server, name, title, description, uri, template } = of;
  const place = uri ?? template;
  return { of, key: `${server} ${place ?? name}`, title: title || name || place, aside: server, detail: [place, description].filter(Boolean).join(" · ") };
}
