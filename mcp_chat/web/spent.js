/**
 * What answers have used. Pure.
 *
 * @typedef {{input_tokens?: number, output_tokens?: number, cost?: number | null, estimated?: boolean}} Usage
 */

/** A step's usage, as the history has it: money in billionths. @param {any} kept @returns {Usage} */
export function usageOf({ input_tokens, output_tokens, cost_nanos, estimated }) {
  const count = (value) => (Number.isSafeInteger(value) && value > 0 ? value : 0);
  return {
    input_tokens: count(input_tokens),
    output_tokens: count(output_tokens),
    cost: count(cost_nanos) / 1e9,
    estimated: estimated === true,
  };
}

/** Two together; what is not there has used nothing. @param {Usage} [one] @param {Usage} [other] @returns {Usage} */
export function sum(one, other) {
  return {
    input_tokens: (one?.input_tokens ?? 0) + (other?.input_tokens ?? 0),
    output_tokens: (one?.output_tokens ?? 0) + (other?.output_tokens ?? 0),
    cost: (one?.cost ?? 0) + (other?.cost ?? 0),
    estimated: Boolean(one?.estimated || other?.estimated),
  };
}
