/** Every word the page shows, in one place. */

/** @param {number} count @param {string} one @param {string} many */
const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;

export const strings = {
  product: "MCP Chat",
  loading: "Loading",
  dismiss: "Dismiss",
  retry: "Try again",

  signIn: {
    title: "Welcome to MCP Chat",
    demo: "This is the demo sign-in, without a password. Choose any name: your conversation and settings belong to it.",
    name: "Your name",
    placeholder: "alice",
    jwt: "Paste the access token that you were given. It stays in this browser tab and is forgotten when the tab closes.",
    token: "Access token",
    elsewhere: "You are not signed in. Sign in where you usually do, at your gateway or company login, and come back here.",
    again: "I have signed in",
    submit: "Sign in",
    busy: "Signing in",
    refused: "This access token was not accepted. It may have expired: get a new one and paste it here.",
    expired: "You are no longer signed in. Please sign in again; your conversation is kept.",
    signOut: "Sign out",
    signedIn: (user) => `Signed in as ${user}`,
  },

  setup: {
    title: "Connect to a server",
    lead: "Choose the MCP server whose tools you want to use, and the model that uses them.",
    server: "MCP server",
    ownServer: "Another server, by address",
    url: "Server address",
    urlPlaceholder: "https://example.com/mcp",
    urlInvalid: "Enter a full address that starts with http:// or https://.",
    token: "Access token",
    optional: "optional",
    tokenHelp: "Sent to this server only, as a bearer token.",
    model: "Model",
    demoOption: (name) => (/no language model/i.test(name) ? name : `${name} (no language model)`),
    noModels: "No model is set up. Ask the operator of this chat to add one.",
    connect: "Connect",
    connecting: "Connecting",
  },

  demo: "Demo mode: this is no language model. It follows a few fixed commands, so that you can try the tools without one.",
  demoShort: "Demo: scripted answers, no language model.",
  caution: "Answers can be wrong. Check what matters.",

  status: {
    connected: "Connected",
    tools: (count) => plural(count, "tool", "tools"),
    toolList: "Tools of this connection",
    noTools: "The server offers no tools.",
    disconnect: "Disconnect",
    disconnecting: "Disconnecting",
  },

  thread: {
    label: "Conversation",
    latest: "Jump to the latest message",
    greeting: "What can I do for you?",
    lead: (server, count) => `${plural(count, "tool", "tools")} of ${server} ${count === 1 ? "is" : "are"} ready to use.`,
    examples: "Try one of these",
  },

  message: {
    you: "You",
    assistant: "Assistant",
    working: "Working",
    stopped: "Stopped. The answer is not complete.",
    failed: "The answer could not be completed.",
    interrupted: "The answer was interrupted and is not complete.",
    unanswered: "No answer was recorded.",
    empty: "The answer was empty.",
    copy: "Copy answer",
    copyCode: "Copy code",
    copied: "Copied",
    copyFailed: "Copying is not allowed here",
    image: (text) => `Image: ${text || "no description"}`,
    tokens: (count) => plural(count, "token", "tokens"),
    announce: (text) => `Answer: ${text}`,
    announceFailed: (text) => `The answer failed: ${text}`,
    code: "code",
  },

  tool: {
    running: "Running",
    done: "Done",
    error: "Failed",
    args: "Arguments",
    noArgs: "none",
    result: "Result",
    failure: "Error",
    noResult: "The tool returned nothing.",
    lost: "No result was recorded. The call may or may not have happened.",
    stopped: "Stopped before a result arrived.",
    progress: (done, total) => (total ? `${done} of ${total}` : `${done}`),
    clipped: (count) => `${count.toLocaleString()} more characters are not shown; copying gives you everything.`,
    copy: "Copy",
  },

  composer: {
    label: "Your message",
    placeholder: (server) => `Message ${server}`,
    send: "Send",
    stop: "Stop",
    stopping: "Stopping",
    keys: "Enter sends, Shift+Enter starts a new line",
  },

  /** Shown when a tool of this name is there; the first match of a line wins. */
  examples: [
    { tool: /^(add|sum|plus)$/i, text: "add 2 and 3" },
    { tool: /^echo$/i, text: "/echo hello" },
    { tool: /time|clock|now$/i, text: "what time is it" },
    { tool: /weather|forecast/i, text: "what is the weather in Paris" },
    { tool: /search|find/i, text: "search for the Model Context Protocol" },
  ],
  anyModelExample: "What can you do with your tools?",

  errors: {
    unreachable: "The chat server cannot be reached. Check your connection, then try again.",
    unreadable: "The chat server sent an answer that could not be read. If this stays so, tell its operator.",
    status: (code) => `The chat server answered with an error (HTTP ${code}). Try again; if this stays so, tell its operator.`,
    notConnected: "You are not connected to a server any more. Connect again to go on; your text is kept.",
    interrupted: "The connection was lost while the answer was on its way. Fetching it…",
  },
};
