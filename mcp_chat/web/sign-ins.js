/** Ends sign-ins at MCP servers for a window that came back from one and cannot say who is asking. */
import { post } from "./api.js";
import { user } from "./principal.js";

const tab = crypto.getRandomValues(new Uint32Array(2)).join("-");

/** @param {(server: string) => void} heard called when somebody has signed in to a server */
export function hearSignIns(heard) {
  const channel = new BroadcastChannel("mcp-chat-sign-in");
  channel.onmessage = async ({ data }) => {
    if (data.type === "who" && user.value) channel.postMessage({ type: "here", tab });
    if (data.type === "finish" && data.tab === tab) channel.postMessage(await finished(data.answer));
    if (data.type === "signed-in") heard(data.server);
  };
}

/** @param {object} answer what the authorization server has sent along */
async function finished(answer) {
  const told = { type: "finished", tab };
  return post("llmchat/oauth/callback", answer).then(
    ({ alias }) => ({ ...told, server: alias }),
    ({ message }) => ({ ...told, detail: message }),
  );
}
