/** Where the focus goes when what had it is gone. */

/** To where the user writes; not where that would bring up a keyboard on the glass. */
export const toComposer = () => (matchMedia("(hover: hover)").matches ? focus(".composer textarea") : focus("main"));

/** When what had it is off the page: unless the user has gone on elsewhere meanwhile. @param {() => void} move */
export const onceLost = (move) => requestAnimationFrame(() => document.activeElement === document.body && move());

/** @param {string} selector @param {ParentNode | null} [within] @returns {boolean} whether there is such an element */
export function focus(selector, within = document) {
  const element = within?.querySelector(selector);
  element?.focus();
  return Boolean(element);
}
