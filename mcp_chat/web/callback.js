/**
 * The page that a browser comes back to from a sign-in at an MCP server. Where the login is a header that no
 * navigation carries, a tab of the chat ends the sign-in; and any tab hears how it went.
 */
const PATIENCE = 15_000;
const channel = new BroadcastChannel("mcp-chat-sign-in");
const { outcome, server } = document.querySelector("main").dataset;
const given = new URLSearchParams(location.search);
history.replaceState(null, "", location.pathname); // what came along is used once, and is nobody else's business

/** @param {string} text */
const say = (text) => (document.querySelector("p").textContent = text);

/** @param {string} alias */
function done(alias) {
  say(`You are signed in to ${alias}. You can close this window.`);
  channel.postMessage({ type: "signed-in", server: alias });
  window.close();
}

/** What is posted to end the sign-in. */
function answer() {
  const fields = ["state", "code", "iss", "error"].filter((name) => given.has(name));
  return Object.fromEntries(fields.map((name) => [name, given.get(name)]));
}

/** End it ourselves: cookies come along now, as the request is our own. @returns {Promise<boolean>} */
async function finish() {
  const response = await fetch(location.pathname, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(answer()),
    cache: "no-store",
  });
  if (response.status === 401) return false;
  const body = await response.json();
  if (response.ok) done(body.alias);
  else say(body.detail);
  return true;
}

async function ask() {
  try {
    if (!(await finish())) handOver();
  } catch {
    say("The chat cannot be reached right now. Begin the sign-in again in a moment.");
  }
}

/** Ask the tabs which of them is there, and let the first one end it. */
function handOver() {
  const missing = "No tab of the chat is open here. Open the chat, and begin the sign-in again.";
  const waiting = setTimeout(() => say(missing), PATIENCE);
  let chosen = null;
  channel.onmessage = ({ data }) => {
    if (data.type === "here" && !chosen) {
      chosen = data.tab;
      channel.postMessage({ type: "finish", tab: chosen, answer: answer() });
    } else if (data.type === "finished" && data.tab === chosen) {
      clearTimeout(waiting);
      if (data.server) done(data.server);
      else say(data.detail);
    }
  };
  channel.postMessage({ type: "who" });
}

if (outcome === "done") done(server);
else if (outcome === "ask") await ask();
