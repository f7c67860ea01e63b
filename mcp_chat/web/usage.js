/** What the user has used, and what is left of their limits. */
import { get } from "./api.js";

/**
 * @typedef {{input_tokens: number, output_tokens: number, cost: number, calls: number}} Used
 * @typedef {{today: Used, month: Used, limits: Record<string, {limit: number, used?: number, left?: number}> & {resets_at: string}}} Usage
 */

/** @returns {Promise<Usage>} */
export const loadUsage = () => get("llmchat/usage");

const DAILY = ["day_tokens", "day_cost", "day_calls"];
const OF_A_TURN = ["turn_tokens", "turn_cost", "turn_calls"];

/** @param {Usage["limits"]} limits @returns {{name: string, limit: number, left?: number}[]} those that are set, of the day first */
export const limitsOf = (limits) => [...DAILY, ...OF_A_TURN].filter((name) => limits[name]).map((name) => ({ name, ...limits[name] }));
