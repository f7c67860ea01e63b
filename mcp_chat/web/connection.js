/** The live configuration of the user: which MCP server, which model, which tools. */
import { get, post } from "./api.js";
import { user } from "./principal.js";
import { computed, signal } from "./vendor/signals.js";

/**
 * @typedef {{name: string, description?: string, transport?: string}} Server
 * @typedef {{id: string, model_id: string, model_name: string, provider_name: string, supports_function_calling?: boolean,
 *   supports_vision?: boolean, supports_reasoning?: boolean, context_window?: number | null,
 *   prices?: {input: number, output: number} | null, demo?: boolean, description?: string}} Model
 * @typedef {{server: string, model: string, modelId: string, demo: boolean, tools: string[], sessionId?: string}} Connection
 */

/** @type {{value: Server[]}} */
export const servers = signal([]);

/** @type {{value: Model[]}} */
export const models = signal([]);

/** undefined until the server said whether there is one. @type {{value: Connection | null | undefined}} */
export const connection = signal(undefined);

/** The id of the model that the conversation on the page has chosen for itself. @type {{value: string | null}} */
export const own = signal(null);

/** What is known of the model that answers; nothing of a user's own. @type {{value: Model | undefined}} */
export const model = computed(() => models.value.find(({ id }) => id === (own.value ?? connection.value?.modelId)));

/** What the model that answers is called. */
export const modelName = computed(() => model.value?.model_name ?? own.value ?? connection.value?.model ?? "");

/** Whether answers come from a script instead of a language model. */
export const demo = computed(() => Boolean(model.value?.demo));

/** Whether the model cannot use the tools of the servers. */
export const toolless = computed(() => model.value?.supports_function_calling === false);

/** What there is to choose from. */
export async function loadChoices() {
  const who = user.value;
  const [known, gateway] = await Promise.all([get("llmchat/servers"), get("llmchat/gateway/models")]);
  if (who !== user.value) return;
  servers.value = known.servers ?? [];
  models.value = gateway.models ?? [];
}

/** Take up a connection that is still live, say after a reload. */
export async function restore() {
  const who = user.value;
  const status = await get(`llmchat/status/${me()}`);
  const found = status.connected ? fromConfig(await configuration()) : null;
  if (who === user.value) connection.value = found;
}

/** @param {{server?: object, servers?: object[], serverName: string, model: Model}} choice */
export async function connect({ server, servers: several, serverName, model: chosen }) {
  const to = several ? { servers: several } : { server };
  const request = { user_id: user.value.id, ...to, llm: { model: chosen.model_id }, streaming: true };
  const answer = await post("llmchat/connect", request);
  connection.value = {
    server: serverName,
    model: chosen.model_name,
    modelId: chosen.id,
    demo: Boolean(chosen.demo),
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

/** What the user has connected with, secrets as stars. @returns {Promise<object | null>} */
export const configuration = () =>
  get(`llmchat/config/${me()}`).catch((error) => {
    if (error.status === 404) return null; // disconnected between the two questions
    throw error;
  });

/** @returns {Connection | null} */
function fromConfig(config) {
  if (!config) return null;
  const id = config.llm?.config?.model ?? "";
  const ids = [id, `${config.llm?.provider}:${id}`]; // both ways of naming a model
  const known = models.value.find((each) => ids.includes(each.model_id));
  const used = config.mcp_server ?? config.mcp_servers?.[0] ?? {};
  return {
    server: used.name || host(used.url ?? ""),
    model: known?.model_name ?? id,
    modelId: known?.id ?? id,
    demo: Boolean(known?.demo),
    tools: config.tools ?? [],
    sessionId: config.session_id,
  };
}

/** What to call a server that only has an address. @param {string} url */
export const host = (url) => (URL.canParse(url) ? new URL(url).host : url);
