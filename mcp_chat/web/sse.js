/** Server-sent events over fetch: EventSource can neither POST nor send headers. */

// A CR at the very end of what has arrived may be the first half of a CRLF: it waits for the next chunk.
const LINE_END = /\r\n|\n|\r(?!$)/;

/**
 * The events of a response, in order. Comments and frames that are not JSON are passed over.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{name: string, data: any, id: string}>} the id says where in the log the event is
 */
export async function* events(body) {
  let name = "message";
  let data = [];
  let id = "";
  for await (const line of lines(body)) {
    if (line === "") {
      const parsed = data.length ? parse(data.join("\n")) : undefined;
      if (parsed !== undefined) yield { name, data: parsed, id };
      [name, data] = ["message", []];
      continue;
    }
    const [field, value] = split(line);
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  }
}

/** Whole lines only: what is left when the stream ends was cut off. @param {ReadableStream<Uint8Array>} body */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const parts = (rest + read.value).split(LINE_END);
      rest = parts.pop();
      yield* parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} line @returns {[string, string]} a comment has an empty field name */
function split(line) {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1)];
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
