/** The live configuration of the user: which MCP server, which model, which tools. */
import { get, post } from "./api.js";
import { user } from "./principal.js";
import { computed, signal } from "./vendor/signals.js";

/**
 * @typedef {{name: string, description?: string, transport?: string}} Server
 * @typedef {{id: string, model_id: string, model_name: string, provider_name: string, demo?: boolean, description?: string}} Model
 * @typedef {{server: string, model: string, demo: boolean, tools: string[], sessionId?: string}} Connection
 */

/** @type {{value: Server[]}} */
export const servers = signal([]);

/** @type {{value: Model[]}} */
export const models = signal([]);

/** undefined until the server said whether there is one. @type {{value: Connection | null | undefined}} */
export const connection = signal(undefined);

/** Whether answers come from a script instead of a language model. */
export const demo = computed(() => Boolean(connection.value?.demo));

/** What there is to choose from. */
export async function loadChoices() {
  const [known, gateway] = await Promise.all([get("llmchat/servers"), get("llmchat/gateway/models")]);
  servers.value = known.servers ?? [];
  models.value = gateway.models ?? [];
}

/** Take up a connection that is still live, say after a reload. */
export async function restore() {
  const status = await get(`llmchat/status/${me()}`);
  connection.value = status.connected ? fromConfig(await configuration()) : null;
}

/** @param {{server: object, serverName: string, model: Model}} choice */
export async function connect({ server, serverName, model }) {
  const request = { user_id: user.value.id, server, llm: { model: model.model_id }, streaming: true };
  const answer = await post("llmchat/connect", request);
  connection.value = {
    server: serverName,
    model: model.model_name,
    demo: Boolean(model.demo),
    tools: answer.tools ?? [],
    sessionId: answer.session_id,
  };
}

export async function disconnect() {
  await post("llmchat/disconnect", { user_id: user.value.id });
  connection.value = null;
}

/** The user's id as part of a path. */
export const me = () => encodeURIComponent(user.value.id);

/** @returns {Promise<object | null>} */
const configuration = () =>
  get(`llmchat/config/${me()}`).catch((error) => {
    if (error.status === 404) return null; // disconnected between the two questions
    throw error;
  });

/** @returns {Connection | null} */
function fromConfig(config) {
  if (!config) return null;
  const id = config.llm?.config?.model ?? "";
  const ids = [id, `${config.llm?.provider}:${id}`]; // both ways of naming a model
  const model = models.value.find((known) => ids.includes(known.model_id));
  const used = config.mcp_server ?? config.mcp_servers?.[0] ?? {};
  return {
    server: used.name || host(used.url ?? ""),
    model: model?.model_name ?? id,
    demo: Boolean(model?.demo),
    tools: config.tools ?? [],
    sessionId: config.session_id,
  };
}

/** What to call a server that only has an address. @param {string} url */
export const host = (url) => (URL.canParse(url) ? new URL(url).host : url);
