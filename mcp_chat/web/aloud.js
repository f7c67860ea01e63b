/** An answer as it is read aloud: its words, without the signs of Markdown. */

const ESCAPED = /(\\[!-/:-@[-`{-~])/; // is meant as it stands
const LINK = /!?\[([^\][]{0,500})\]\([^)\s]{0,2000}\)/g;
const HEAD = /^[ \t]{0,3}(?:#{1,6}|>{1,9}|(?:`{3,9}|~{3,9})\w{0,20})(?:[ \t]|$)/gm; // of headings, quotes and code
const RULE = /^[ \t:|-]+$/gm; // of tables
const SIGN = /`+|\*+(?=\S)|(?<=\S)\*+|~~|(?<!\w)_+|_+(?!\w)/g; // one within a word belongs to it

/** @param {string} markdown @returns {string} */
export const aloud = (markdown) =>
  markdown
    .replace(RULE, (line) => (line.includes("--") ? "" : line))
    .replace(HEAD, "")
    .split(ESCAPED)
    .map((part, place) => (place % 2 ? part[1] : bare(part)))
    .join("")
    .trim();

/** @param {string} text */
const bare = (text) => text.replace(LINK, "$1").replace(SIGN, "").replaceAll("|", " ");
