/** Where two texts differ, word by word. Pure. */

const MOST_CELLS = 250_000; // of the table: longer texts are compared as a whole

/** @typedef {{text: string, same: boolean}} Piece */

/** @param {string} before @param {string} after @returns {[Piece[], Piece[]]} each text in pieces that are in both, or only there */
export function differenceOf(before, after) {
  const [old, now] = [before, after].map((text) => text.match(/\s+|[^\s]+/g) ?? []);
  if (old.length * now.length > MOST_CELLS) return [[{ text: before, same: false }], [{ text: after, same: false }]];
  const lengths = tableOf(old, now);
  const kept = [new Set(), new Set()];
  for (let [i, j] = [0, 0]; i < old.length && j < now.length; ) {
    if (old[i] === now[j]) kept[0].add(i++), kept[1].add(j++);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return [pieces(old, kept[0]), pieces(now, kept[1])];
}

/** How many words two ends have in common, in order. */
function tableOf(old, now) {
  const lengths = Array.from({ length: old.length + 1 }, () => new Uint32Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      lengths[i][j] = old[i] === now[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}

/** @param {string[]} words @param {Set<number>} kept @returns {Piece[]} */
function pieces(words, kept) {
  const found = [];
  for (const [index, text] of words.entries()) {
    const same = kept.has(index);
    if (found.at(-1)?.same === same) found.at(-1).text += text;
    else found.push({ text, same });
  }
  return found;
}
