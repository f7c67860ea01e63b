/** Views whose modules are fetched when they are first wanted, so that a page begins with what it shows. */
import { report } from "../problem.js";
import { strings } from "../strings.js";
import { stylesheet } from "../stylesheet.js";
import { h } from "../vendor/preact.js";
import { signal } from "../vendor/signals.js";

/**
 * @template Props
 * @param {() => Promise<(props: Props) => unknown>} load
 * @param {...string} sheets the style sheets that it needs
 * @returns {((props: Props) => unknown) & {fetch: () => Promise<void>}} shows nothing until it is there
 */
export function lazy(load, ...sheets) {
  const found = signal(null);
  let asked = null;
  const fetch = () => (asked ??= Promise.all([load(), ...sheets.map(stylesheet)]).then(([view]) => void (found.value = view), lost));
  const lost = (error) => {
    asked = null;
    console.error(error); // it may not be the network
    report(strings.errors.unreachable, { label: strings.retry, run: fetch });
  };
  const Lazy = (props) => (found.value ? h(found.value, props) : void fetch());
  return Object.assign(Lazy, { fetch });
}
