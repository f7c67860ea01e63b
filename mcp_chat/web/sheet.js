/** Tables as text that a spreadsheet takes. Pure. */

/** Tab-separated; a cell with a tab, a quote or several lines is quoted. @param {string[][]} rows */
export const sheet = (rows) => rows.map((row) => row.map(cell).join("\t")).join("\n");

/** @param {string} text */
const cell = (text) => (/["\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
