/** What the user has allowed for longer than one call. */
import { get, remove } from "./api.js";
import { signal } from "./vendor/signals.js";

/**
 * @typedef {{id: string, kind: "session" | "always", server: string, tool: string, name: string, until: string}} Grant
 * @type {{value: Grant[]}}
 */
export const grants = signal([]);

const PATH = "llmchat/approvals/grants";

export async function loadGrants() {
  grants.value = (await get(PATH)).grants ?? [];
}

/** @param {Grant} grant from now on it is asked about again */
export async function revoke({ id }) {
  await remove(`${PATH}/${encodeURIComponent(id)}`).catch((error) => {
    if (error.status !== 404) throw error; // taken back elsewhere
  });
  grants.value = grants.value.filter((each) => each.id !== id);
}

export const revokeAll = () => remove(PATH).then(loadGrants);
