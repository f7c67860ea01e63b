/** Markdown of which the end is still to come, made to look as it will. Pure. */

const MARKS_ONLY = /(?:^|\n)[ \t]*(?:[-=*_+#>~`]+|\d{1,9}[.)]?)[ \t]*$/;
const TASK = /(?:^|\n)[ \t]*(?:[-*+]|\d+[.)]) \[[ xX]?\]?$/;
const LINK = /!?\[((?:[^[\]\n]|\[[^[\]\n]*\])*)\]\([^()\n]*$/;
const BRACKET = /(!?)\[([^[\]\n]*)$/;
const CODE = /(`+)(?!`)((?:(?!\1)[^])*?[^`])\1(?!`)/g;
const FORMULA = /(?:\$\$|\\\[|\\\()(?:(?!\$\$|\\\]|\\\))[^])*$/;
const SMALL_FORMULA = /\$(?:[^\s$]{0,40}|(?=[^$\n]*[\\^_=])[^$\s][^$\n]{0,200})$/;
const EMPHASIS = /\*\*|__|~~|\*|_/g;
const RULE = /^[ \t]*\|?(?:[ \t]*:?-*:?[ \t]*\|?)*$/;

/** @param {string} text not within a block of code @returns {string} */
export function mended(text) {
  if (isWithinCode(text)) return text;
  const from = text.lastIndexOf("\n\n") + 2;
  const start = from < 2 ? 0 : from;
  return text.slice(0, start) + closed(decided(text.slice(start)));
}

/** @param {string} text */
const isWithinCode = (text) => (text.match(/^[ \t>]*(?:```|~~~)/gm)?.length ?? 0) % 2 === 1;

/** Without what could still become something else. @param {string} text a paragraph, a list or a table */
function decided(text) {
  const known = withoutTableHead(text).replace(TASK, "").replace(MARKS_ONLY, "");
  const shut = masked(known);
  const formula = openFormula(shut);
  if (formula >= 0) return known.slice(0, formula);
  if (LINK.test(shut)) return known.replace(LINK, (all, label) => (all[0] === "!" ? "" : label));
  return BRACKET.test(shut) ? known.replace(BRACKET, (all, picture, label) => (picture ? "" : label)) : known;
}

/** Where a formula begins that does not end. */
function openFormula(text) {
  const complete = text.replace(/\$\$[^$]*\$\$|\\\[(?:(?!\\\])[^])*\\\]|\\\((?:(?!\\\))[^])*\\\)|\$(?!\s)[^$\n]*[^\s$]\$(?!\w)/g, blank);
  const found = FORMULA.exec(complete) ?? SMALL_FORMULA.exec(complete);
  return found ? found.index : -1;
}

/** A row of a table is none before the rule under it has come. */
function withoutTableHead(text) {
  const lines = text.split("\n");
  const head = lines.findIndex((line) => /^[ \t]*\|/.test(line));
  const rest = head < 0 ? [] : lines.slice(head);
  const open = rest.length === 1 || (rest.length === 2 && RULE.test(rest[1]) && cells(rest[1]) < cells(rest[0]));
  return open ? lines.slice(0, head).join("\n") : text;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").filter((cell) => cell.trim()).length;

/** With an end to all that has begun. */
function closed(text) {
  const shut = masked(text);
  const [tick] = /`+(?=[^`]*$)/.exec(shut) ?? [];
  if (tick) return shut.endsWith(tick) ? text.slice(0, -tick.length) : text + tick;
  const open = openEmphasis(shut);
  const bare = text.replace(/(?<=^|\s)(?:\*{1,3}|_{1,3}|~~)$/, "");
  if (bare !== text) return closed(bare);
  return text.replace(/\s+$/, "") + open.reverse().join("");
}

/** What was opened with no end yet, the outermost first. @returns {string[]} */
function openEmphasis(text) {
  const open = [];
  for (const { 0: mark, index } of text.matchAll(EMPHASIS)) {
    const [before, after] = [text[index - 1] ?? " ", text[index + mark.length] ?? " "];
    const within = mark[0] === "_" && /\w/.test(before) && /\w/.test(after);
    if (before === "\\" || within) continue;
    if (/\S/.test(before) && open.at(-1) === mark) open.pop();
    else if (/\S/.test(after) && (mark[0] !== "_" || !/\w/.test(before))) open.push(mark);
  }
  return open;
}

/** Code is taken as it is: nothing in it means anything. */
const masked = (text) => text.replace(CODE, blank);

const blank = (all) => all.replace(/[^\n]/g, "x");
