/** What to try first, depending on the tools that are there. */
import { toolName } from "./format.js";
import { strings } from "./strings.js";

const MOST = 4;

/** @param {string[]} tools @param {boolean} demo a script understands only its own commands @returns {string[]} */
export function examplesFor(tools, demo) {
  const names = tools.map((full) => toolName(full).name);
  const fitting = strings.examples.filter(({ tool }) => names.some((name) => tool.test(name))).map(({ text }) => text);
  return (demo ? fitting : [strings.anyModelExample, ...fitting]).slice(0, MOST);
}
