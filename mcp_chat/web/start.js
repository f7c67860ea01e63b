/** The way through the page: sign in, connect, chat, and back. */
import { connect, connection, disconnect, loadChoices, restore } from "./connection.js";
import { identify, user } from "./principal.js";
import { dismiss, report } from "./problem.js";
import { close, open } from "./session.js";
import { strings } from "./strings.js";
import { effect, untracked } from "./vendor/signals.js";

/** Find out who is asking; from then on, follow whoever is signed in. */
export async function start() {
  try {
    dismiss();
    await identify();
    effect(() => void (user.value, untracked(enter)));
  } catch (error) {
    report(error, { label: strings.retry, run: start });
  }
}

/** A user came or went. */
async function enter() {
  close();
  connection.value = undefined;
  if (!user.value) return;
  try {
    await loadChoices();
    await restore();
    if (connection.value) await open();
  } catch (error) {
    if (user.value) report(error, { label: strings.retry, run: () => (dismiss(), enter()) });
  }
}

/** @param {Parameters<typeof connect>[0]} choice */
export async function join(choice) {
  await connect(choice);
  await open();
}

export async function leave() {
  await disconnect();
  close();
}
