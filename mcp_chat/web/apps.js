/** The apps that servers bring along: what is done for them. */
import { get, post } from "./api.js";
import { whileAsked } from "./deciding.js";
import { user } from "./principal.js";

/** @typedef {{src: string, html: string, border: boolean | null}} View */

/** @param {string} tool @returns {Promise<View>} */
export const openView = (tool) => get(`llmchat/apps/view?tool=${encodeURIComponent(tool)}`);

/** Call a tool of the app's own server. @param {string} tool whose app asks */
export const callFor = (tool, name, args) =>
  whileAsked(post("llmchat/apps/calls", { user_id: user.value.id, tool, name, arguments: args }));

/** Read a resource of the app's own server. @param {string} tool whose app asks */
export const readFor = (tool, uri) => post("llmchat/apps/resources", { user_id: user.value.id, tool, uri });
