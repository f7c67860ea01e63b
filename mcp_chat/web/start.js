/** The way through the page: sign in, connect, chat, and back. */
import { connect, connection, disconnect, loadChoices, models, own, restore, servers as choices } from "./connection.js";
import { grants } from "./grants.js";
import { identify, user } from "./principal.js";
import { dismiss, report } from "./problem.js";
import { correct, onRoute } from "./route.js";
import { awaitServer, connected, loadServers } from "./servers.js";
import { close, open, turnTo } from "./session.js";
import { hearSignIns } from "./sign-ins.js";
import { strings } from "./strings.js";
import { batch, effect, untracked } from "./vendor/signals.js";

/** Find out who is asking; from then on, follow whoever is signed in. */
export async function start() {
  try {
    dismiss();
    await identify();
    hearSignIns((server) => connection.value && awaitServer(server).catch(() => {}));
    onRoute(turnTo);
    effect(() => void (user.value, untracked(enter)));
  } catch (error) {
    report(error, { label: strings.retry, run: start });
  }
}

/** The user who was here last. */
let last = "";

/** A user came or went. */
async function enter() {
  const who = user.value;
  close();
  forget();
  if (!who) return;
  if (last && last !== who.id) correct(null); // the address is that of another one's conversation
  last = who.id;
  try {
    await loadChoices();
    await restore();
    if (connection.value && who === user.value) await arrive();
  } catch (error) {
    if (who === user.value) report(error, { label: strings.retry, run: () => (dismiss(), enter()) });
  }
}

/** What was looked up for one user is nothing to the next. */
const forget = () =>
  batch(() => {
    [connection.value, own.value] = [undefined, null];
    for (const list of [choices, models, connected, grants]) list.value = [];
  });

/** @param {Parameters<typeof connect>[0]} choice */
export async function join(choice) {
  await connect(choice);
  await arrive();
}

/** Show the conversation that the address names, and the servers. */
export const arrive = () => Promise.all([open(), loadServers().catch(() => {})]);

export async function leave() {
  await disconnect();
  correct(null);
  close();
}
