/** How the user stops an answer, also one whose question is still on its way. */
import { post } from "./api.js";
import { request, visit } from "./conversation.js";
import { isSending } from "./messages.js";
import { report } from "./problem.js";
import { working } from "./sending.js";
import { strings } from "./strings.js";
import { signal } from "./vendor/signals.js";

const PATIENCE_MS = 8000;
const AGAIN_MS = 300;

/** Whether the user has asked for it, and the end is still to come. */
export const stopping = signal(false);

/** @param {{reload: () => Promise<void>}} page */
export function stopper({ reload }) {
  /** Ask the server to stop the turn; the line then tells its end. */
  async function stop() {
    if (!working.value || stopping.value) return;
    const { gone } = visit();
    stopping.value = true;
    setTimeout(() => gone.aborted || (stopping.value = false), PATIENCE_MS); // so that it can be tried again
    try {
      if (await halt(gone)) return;
      await reload();
      if (!gone.aborted) stopping.value = false;
    } catch (error) {
      if (gone.aborted) return;
      stopping.value = false;
      report(error, { label: strings.retry, run: stop });
    }
  }

  return stop;
}

/**
 * Stop the turn, even if it begins only now: a stop may overtake its message.
 * @param {AbortSignal} gone @returns {Promise<boolean>} false if there is nothing to stop
 */
async function halt(gone) {
  while (!gone.aborted && working.value && stopping.value) {
    const early = isSending();
    const { status } = await post("llmchat/cancel", request({}));
    if (status !== "no_running_turn") return true;
    if (!early) return gone.aborted;
    await new Promise((resume) => setTimeout(resume, AGAIN_MS));
  }
  return gone.aborted || working.value;
}
