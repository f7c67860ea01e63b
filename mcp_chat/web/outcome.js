/** What a tool gave, as what it is: text, a JSON value, a table, resources. Pure. */

const MOST_COLUMNS = 16;
const RESOURCE = /^\[resource (.+): (\S+)\]$/;
const SHORTENED = /\n\[shortened: \d+ more characters are not shown\](?=\n|$)/;
const WHOLE = /^result\.(?:txt|json)$/;

/**
 * @typedef {{text: string, value?: unknown, table?: Table, resources: {name: string, uri: string}[], whole?: object}} Outcome
 *   `whole`: the file with all of a text that was too long
 * @typedef {{columns: string[], rows: unknown[][]}} Table
 * @param {{result?: unknown, structured?: unknown, files?: object[]}} part
 * @returns {Outcome}
 */
export function outcomeOf({ result, structured, files = [] }) {
  const lines = asText(result).split("\n").filter((line) => !tellsOf(line, files));
  const resources = lines.map((line) => RESOURCE.exec(line)).filter(Boolean).map(([, name, uri]) => ({ name, uri }));
  const text = lines.filter((line) => !RESOURCE.test(line)).join("\n");
  const read = parsed(text) ?? objectsIn(text);
  const value = structured ?? read;
  const said = value !== undefined && (read !== undefined || isSame(text, structured)) ? "" : text;
  return { text: said, value, table: tableOf(value), resources, whole: SHORTENED.test(text) ? files.find(({ name }) => WHOLE.test(name)) : undefined };
}

/** The lines for the model that tell of files: those are there to be seen. */
export const tellsOf = (line, files) => files.some(({ upload_id: id }) => line.endsWith(` as ${id}]`));

/** @param {unknown} value */
export const asText = (value) => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));

/** Objects and lists only: a number or a word is better read as text. @param {string} text @returns {unknown} */
export function parsed(text) {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A list that came as one block of text for each of its objects. @param {string} text @returns {object[] | undefined} */
function objectsIn(text) {
  const blocks = text.trim().split(/\n+(?=\{)/).map(parsed);
  return blocks.every(isObject) ? blocks : undefined;
}

/** Whether a text says no more than the value beside it. */
const isSame = (text, structured) => !text || (isObject(structured) && Object.values(structured).some((each) => asText(each) === text));

/** A list of alike flat objects, also as the only thing in an object. @param {unknown} value @returns {Table | undefined} */
export function tableOf(value) {
  const list = isObject(value) && Object.keys(value).length === 1 ? Object.values(value)[0] : value;
  if (!Array.isArray(list) || !list.length || !list.every(isFlat)) return undefined;
  const columns = [...new Set(list.flatMap(Object.keys))];
  if (columns.length > MOST_COLUMNS) return undefined;
  return { columns, rows: list.map((each) => columns.map((column) => each[column])) };
}

/** @param {unknown} value */
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

const isFlat = (value) => isObject(value) && Object.keys(value).length > 0 && Object.values(value).every((each) => each === null || typeof each !== "object");

/** What the chat was told of a call, as it came. @param {import("./turn.js").ToolPart} part */
export const rawOf = ({ id, tool, args, state, result, structured, files, elapsed }) => ({
  call: { id, tool, input: args },
  ...(state !== "running" && { [state === "error" ? "error" : "result"]: { id, tool, output: result, structured, files, elapsed_ms: elapsed } }),
});
