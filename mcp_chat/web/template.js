/** Templates of URIs (RFC 6570, without prefixes and explosion): their variables, and the URI that values make. Pure. */

const EXPRESSION = /\{([+#./;?&]?)([^{}]+)\}/g;

/** How each operator begins, separates, names and encodes. */
const FORMS = {
  "": { first: "", between: ",", named: false, open: false },
  "+": { first: "", between: ",", named: false, open: true },
  "#": { first: "#", between: ",", named: false, open: true },
  ".": { first: ".", between: ".", named: false, open: false },
  "/": { first: "/", between: "/", named: false, open: false },
  ";": { first: ";", between: ";", named: true, open: false },
  "?": { first: "?", between: "&", named: true, open: false },
  "&": { first: "&", between: "&", named: true, open: false },
};

/** @param {string} template @returns {string[]} */
export const variablesOf = (template) => [...new Set([...template.matchAll(EXPRESSION)].flatMap(([, , names]) => split(names)))];

/** @param {string} template @param {Record<string, string>} values what is empty is left out */
export const expand = (template, values) =>
  template.replace(EXPRESSION, (_, operator, names) => {
    const { first, between, named, open } = FORMS[operator];
    const parts = split(names).filter((name) => values[name]).map((name) => (named ? `${name}=` : "") + encoded(values[name], open));
    return parts.length ? first + parts.join(between) : "";
  });

const split = (names) => names.split(",").map((name) => name.trim().replace(/\*$|:\d+$/, ""));

/** @param {string} value @param {boolean} open whether signs that mean something in a URI stay */
const encoded = (value, open) => {
  const text = value.toWellFormed?.() ?? value;
  return open ? encodeURI(text).replace(/%25(?=[0-9A-F]{2})/gi, "%") : encodeURIComponent(text);
};
