/** A list through which the arrow keys lead, and of which Tab visits one row only. */
import { useSignal } from "../vendor/signals.js";

const STEPS = { ArrowDown: (at) => at + 1, ArrowUp: (at) => at - 1, Home: () => 0, End: (_, count) => count - 1 };

/**
 * @param {string[]} ids of the rows
 * @param {string} [preferred] the row with which Tab begins
 * @returns {{tabindex: (id: string) => 0 | -1, events: object}} what rows and their list are given
 */
export function useRows(ids, preferred = "") {
  const left = useSignal("");
  const stop = [left.value, preferred].find((id) => ids.includes(id)) ?? ids[0];
  const onFocusIn = ({ target }) => (left.value = target.closest("[data-row]")?.dataset.row ?? left.value);
  return { tabindex: (id) => (id === stop ? 0 : -1), events: { onFocusIn, onKeyDown: step } };
}

/** @param {KeyboardEvent} event */
function step(event) {
  if (!Object.hasOwn(STEPS, event.key) || event.target.matches("input")) return;
  const rows = [...event.currentTarget.querySelectorAll("[data-row]")];
  const at = rows.indexOf(event.target.closest("[data-row]"));
  const next = rows[STEPS[event.key](at, rows.length)];
  event.preventDefault();
  next?.querySelector("button").focus();
}
