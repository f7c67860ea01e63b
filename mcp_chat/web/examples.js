/** What to try first, depending on the tools that are there. */
import { distinct, toolName } from "./format.js";
import { strings } from "./strings.js";

const MOST = 4;

/** Which tool an example needs. */
const TOOLS = {
  add: /^(add|sum|plus)$/i,
  echo: /^echo$/i,
  time: /time|clock|now$/i,
  weather: /weather|forecast/i,
  search: /search|find/i,
};

/** What the demo's script understands: it knows one language only. */
const COMMANDS = { add: "add 2 and 3", echo: "/echo hello", time: "what time is it" };

/** @param {string[]} tools @param {boolean} demo a script understands only its own commands @returns {string[]} */
export function examplesFor(tools, demo) {
  const names = tools.map((full) => toolName(full).name);
  const fitting = Object.keys(TOOLS).map((kind) => [kind, names.find((name) => TOOLS[kind].test(name))]).filter(([, name]) => name);
  const said = fitting.map(([kind, name]) => (demo ? COMMANDS[kind] : exampleOf(kind, name))).filter(Boolean);
  return (demo ? said : [strings.anyModelExample, ...said]).slice(0, MOST);
}

/** What a search finds only its tool knows. @param {keyof typeof TOOLS} kind @param {string} tool */
const exampleOf = (kind, tool) => (kind === "search" ? strings.examples.search(distinct(tool)) : strings.examples[kind]);
