/** Calls that wait until their user has decided about them. */
import { get } from "./api.js";
import { inSession, visit } from "./conversation.js";
import { signal } from "./vendor/signals.js";

/**
 * @typedef {"once" | "session" | "always" | "deny"} Decision
 * @typedef {{id: string, server: string, tool: string, name: string, arguments: object, decisions: Decision[],
 *   session_id: string | null, turn_id: string | null, call_id: string}} Approval
 * @type {{value: Approval[]}}
 */
export const approvals = signal([]);

let changes = 0; // news that a look may have overlooked

/** Look which there are; without any news the page goes on as it is. */
export async function loadApprovals() {
  const [before, { gone }] = [changes, visit()];
  const { approvals: found = [] } = await get(`llmchat/approvals${inSession()}`);
  if (before === changes && !gone.aborted) approvals.value = found;
}

/** @param {{name: string, data: any}} event one of a turn's */
export function hearApproval({ name, data }) {
  if (name === "approval") put([...without(data.id), data]);
  if (name === "approval_end") forget(data.id);
}

/** Forget what a turn has asked: it is over. */
export const endApprovals = () => put(approvals.value.filter(({ turn_id: turn }) => !turn));

/**
 * @typedef {{edited: {value: string | null}, reason: {value: string}, form: {value: object | null}}} Draft
 *   what was typed but not decided: arguments as JSON, why not, and the schema while a form is shown
 * @type {Map<string, Draft>}
 */
const drafts = new Map();

/** The same for a call wherever its card is shown. @param {Approval} approval @returns {Draft} */
export function draftOf({ id }) {
  if (!drafts.has(id)) drafts.set(id, { edited: signal(null), reason: signal(""), form: signal(null) });
  return drafts.get(id);
}

/** @param {string} id */
const without = (id) => approvals.value.filter((approval) => approval.id !== id);

/** @param {string} id */
export function forget(id) {
  drafts.delete(id);
  put(without(id));
}

/** @param {Approval[]} list */
function put(list) {
  changes += 1;
  approvals.value = list;
}
