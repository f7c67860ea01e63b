/** What there is to say of a model, and how another one comes to answer. */
import { patch } from "./api.js";
import { configuration, connect, connection, models, own } from "./connection.js";
import { sessionId, visit } from "./conversation.js";
import { visible } from "./format.js";
import { path } from "./models.js";
import { user } from "./principal.js";
import { correct } from "./route.js";
import { connected } from "./servers.js";
import { arrive } from "./start.js";
import { strings } from "./strings.js";

/** Let another model answer here, from the next message on. @param {string} id */
export async function chooseModel(id) {
  const its = id === connection.value.modelId ? null : id;
  const here = visit();
  await here.opened;
  if (here.gone.aborted) return;
  const session = sessionId();
  const { model: now } = await patch(path(session), { user_id: user.value.id, model: its });
  if (session === sessionId()) own.value = now;
}

/** Connect anew to the same servers with another model; a new conversation begins. @param {string} id */
export async function connectWith(id) {
  const config = await configuration();
  const used = config?.mcp_servers ?? [];
  const secret = used.find((server) => server.auth_token);
  if (secret) throw new Error(strings.models.tokenNeeded(visible(secret.name || secret.alias || secret.url)));
  await connect({ servers: connected.value.map(asAsked), serverName: connection.value.server, model: models.value.find((each) => each.id === id) });
  correct(null);
  await arrive();
}

/** @param {import("./servers.js").Connected} server */
const asAsked = ({ alias, operator, url, transport }) => (operator ? { name: alias } : { url, transport, alias });

/** What is shown of a model: whether it can use tools, see pictures, and think. @param {import("./connection.js").Model} of */
export const abilitiesOf = ({ supports_function_calling: tools, supports_vision: vision, supports_reasoning: reasoning }) =>
  [tools === false ? "noTools" : "tools", vision && "vision", reasoning && "reasoning"].filter(Boolean).map((name) => strings.models.abilities[name]);

/** What can be said of it in figures. @param {import("./connection.js").Model} of @returns {string[]} */
export const figuresOf = ({ context_window: window, prices }) =>
  [window && strings.models.window(window), prices && strings.models.prices(prices)].filter(Boolean);
