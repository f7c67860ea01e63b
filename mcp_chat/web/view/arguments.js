/** What a prompt or a template wants to know: a field for each argument, which its server helps to fill in. */
import { visible } from "../format.js";
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Menu, useMenu } from "./menu.js";
import { described } from "./signs.js";

const PAUSE_MS = 150;
const MOST = 20;

/**
 * @param {{id: string, fields: import("../offers.js").Argument[], values: Record<string, string>, set: (name: string, value: string) => void,
 *   complete: (name: string, value: string) => Promise<string[]>, done: () => void, giveUp: () => void}} props
 *   `done`: Enter in the last field; `giveUp`: Escape
 */
export function Arguments({ id, fields, values, set, complete, done, giveUp }) {
  const box = useRef(null);
  useLayoutEffect(() => box.current.querySelector("input")?.focus(), []); // at once: what is typed next belongs here
  const next = (event) => {
    const all = [...box.current.querySelectorAll("input")];
    const following = all[all.indexOf(event.target) + 1];
    if (following) following.focus();
    else done();
  };
  return html`
    <div class="arguments" ref=${box}>
      ${fields.map((field, index) => html`
        <${Argument} key=${field.name} id="${id}-${index}" field=${field} value=${values[field.name] ?? ""}
          set=${(value) => set(field.name, value)} complete=${complete} next=${next} giveUp=${giveUp} />
      `)}
    </div>
  `;
}

function Argument({ id, field: { name, title, description, required }, value, set, complete, next, giveUp }) {
  const { options, look, forget } = useCompletion((text) => complete(name, text));
  const choose = (option) => (forget(), set(option.title));
  const { place, onKey } = useMenu(options, value, choose, forget, -1);
  const onKeyDown = (event) => {
    if (onKey(event) || event.isComposing) return;
    if (event.key === "Escape") (event.stopPropagation(), giveUp());
    if (event.key === "Enter") (event.preventDefault(), next(event));
  };
  const label = visible(title || name);
  return html`
    <label class="argument">
      <span dir="auto">${label}${!required && html` <i>${strings.setup.optional}</i>`}</span>
      <input role="combobox" aria-expanded=${options.length > 0} ...${described(id, options.length, place)} value=${value} required=${required} dir="auto"
        autocomplete="off" spellcheck=${false} title=${visible(description ?? "")} data-testid="argument" data-name=${name}
        onInput=${({ target }) => (set(target.value), look(target.value))} onFocus=${() => look(value)} onBlur=${forget} onKeyDown=${onKeyDown} />
      ${options.length > 0 && html`<${Menu} id=${id} label=${label} options=${options} place=${place} choose=${choose} />`}
    </label>
  `;
}

/** What could stand in a field, asked for when its user pauses. @param {(text: string) => Promise<string[]>} ask */
function useCompletion(ask) {
  const [found, timer, last] = [useSignal([]), useRef(0), useRef(0)];
  const forget = () => {
    clearTimeout(timer.current);
    last.current += 1;
    found.value = [];
  };
  const look = (text) => {
    clearTimeout(timer.current);
    const mine = ++last.current;
    const take = (values) => mine === last.current && (found.value = values.filter((value) => value !== text).slice(0, MOST));
    timer.current = setTimeout(() => ask(text).then(take), PAUSE_MS);
  };
  useEffect(() => forget, []);
  return { options: found.value.map((value) => ({ key: value, title: value })), look, forget };
}
