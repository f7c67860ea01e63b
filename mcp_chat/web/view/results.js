/** The messages that have the words that are looked for. */
import { plain, visible } from "../format.js";
import { html } from "../html.js";
import { dismiss, report } from "../problem.js";
import { fault, findFurther, further, goTo, marked, results, seek } from "../search.js";
import { giveWay, query } from "../sidebar.js";
import { strings } from "../strings.js";
import { useLayoutEffect } from "../vendor/preact-hooks.js";
import { End } from "./end.js";
import { useRows } from "./rows.js";

export function Results() {
  useLayoutEffect(() => seek(query.value), [query.value]);
  const found = results.value ?? [];
  const { tabindex, events } = useRows(found.map(keyOf));
  return html`
    <p class="nothing" role="status" data-testid="search-status">${outcome()}</p>
    <ul class="results" data-testid="search-results" ...${events}>
      ${found.map((one) => html`<${Result} key=${keyOf(one)} found=${one} tabindex=${tabindex(keyOf(one))} />`)}
    </ul>
    <${End} key=${further.value} more=${further.value} reached=${() => findFurther().catch(report)} />
  `;
}

const keyOf = ({ session_id: session, message }) => `${session}/${message.id}`;

function outcome() {
  if (fault.value) return visible(fault.value);
  if (!results.value) return strings.sidebar.searching;
  const { length } = results.value;
  return length ? strings.sidebar.found(length, Boolean(further.value)) : strings.sidebar.nothingFound;
}

/** @param {{found: import("../search.js").Found, tabindex: 0 | -1}} props */
function Result({ found, tabindex }) {
  const { session_name: name, message, excerpt } = found;
  const open = () => {
    giveWay();
    dismiss();
    goTo(found).catch(report);
  };
  return html`
    <li class="result" data-row=${keyOf(found)} data-testid="search-result">
      <button type="button" class="open" tabindex=${tabindex} onClick=${open}>
        <span class="about"><b dir="auto">${visible(name) || strings.sidebar.unnamed}</b><small>${strings.sidebar.day(new Date(message.created_at))}</small></span>
        <span class="excerpt" dir="auto">
          <span class="who">${strings.sidebar.who[message.role] ?? ""}</span>
          ${marked(plain(excerpt), query.value).map((piece) => (piece.found ? html`<mark>${piece.text}</mark>` : piece.text))}
        </span>
      </button>
    </li>
  `;
}
