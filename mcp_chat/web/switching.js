/** What the user does about a server of the connection: adds it, switches it, signs in to it, takes it away. */
import { get, patch, post, remove } from "./api.js";
import { awaitServer, connected, loadServers, show, switching } from "./servers.js";
import { user } from "./principal.js";

/** @param {object} server one of the operator's by its name, or one's own by its URL */
export const addServer = (server) => post("llmchat/servers", { user_id: user.value.id, ...server }).then(changed);

/** @param {string} alias */
export const removeServer = (alias) => remove(path(alias)).then(changed);

/** @param {string} alias @param {boolean} enabled */
export const switchServer = (alias, enabled) =>
  switched(alias, (server) => ({ ...server, enabled }), patch(path(alias), { enabled }));

/** Try it anew: a switch off and on makes a new connection. @param {string} alias */
export async function reconnect(alias) {
  await patch(path(alias), { enabled: false });
  await switchServer(alias, true);
  await awaitServer(alias, ["opening"]);
}

/** @param {string} alias @param {string} name @param {boolean} enabled */
export function switchTool(alias, name, enabled) {
  const turned = (tool) => (tool.name === name ? { ...tool, enabled } : tool);
  const change = (server) => ({ ...server, tools: server.tools.map(turned) });
  return switched(alias, change, patch(`${path(alias)}/tools`, { enabled: { [name]: enabled } }));
}

/** Show a switch where its user put it, until the answer tells: a look in between must not move it back. */
async function switched(alias, change, answer) {
  const before = connected.value;
  switching.count += 1;
  connected.value = before.map((server) => (server.alias === alias ? change(server) : server));
  try {
    changed(await answer);
  } catch (error) {
    connected.value = before;
    throw error;
  } finally {
    switching.count -= 1;
  }
}

/** Accept a definition: just the one that was shown. @param {string} hash */
export const acceptTool = (alias, name, hash) => patch(`${path(alias)}/tools`, { accept: { [name]: hash } }).then(changed);

/** What has changed in a tool that is held back. @returns {Promise<{hash: string, difference: object[]} | null>} */
export async function changeOf(alias, name) {
  const { tools } = await get(`${path(alias)}/tools`);
  return tools.find((tool) => tool.name === name)?.change ?? null;
}

/** Where the user signs in, made anew: an address is good for one sign-in, and for some minutes. @param {string} alias @returns {Promise<string | null>} */
export const signInAddress = (alias) => post(`${path(alias)}/sign-in`, {}).then(({ url }) => url);

/** Take back what the sign-in has allowed. @param {string} alias */
export const signOutOf = (alias) => remove(`${path(alias)}/sign-in`).then(loadServers);

const changed = (answer) => show(answer.connected ?? []);

const path = (alias) => `llmchat/servers/${encodeURIComponent(alias)}`;
