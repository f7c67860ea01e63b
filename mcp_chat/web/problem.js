/** The one thing that is wrong right now, shown in the banner. */
import { signal } from "./vendor/signals.js";

/**
 * @typedef {{text: string, action?: {label: string, run: () => void}}} Problem
 * @type {import("./vendor/signals.js").Signal<Problem | null>}
 */
export const problem = signal(null);

/** @param {Error | string} error @param {Problem["action"]} [action] what the user can do about it */
export function report(error, action) {
  problem.value = { text: typeof error === "string" ? error : error.message, action };
}

export function dismiss() {
  problem.value = null;
}

/** Do something, and say what went wrong. @param {{value: boolean}} busy while it is done @param {() => Promise<void>} action */
export async function during(busy, action) {
  busy.value = true;
  dismiss();
  await action().catch(report);
  busy.value = false;
}
