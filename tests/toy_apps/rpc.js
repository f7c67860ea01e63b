/* What the apps of the tests speak with: JSON-RPC over messages, without anybody's library. */
let last = 0;
const waiting = new Map();
const ask = (method, params) => new Promise((resolve, reject) => {
  waiting.set(++last, [resolve, reject]);
  parent.postMessage({jsonrpc: "2.0", id: last, method, params}, "*");
});
const tell = (method, params) => parent.postMessage({jsonrpc: "2.0", method, params}, "*");
const heard = {};
addEventListener("message", ({data}) => {
  if (data.method && !data.id) return heard[data.method]?.(data.params);
  const [resolve, reject] = waiting.get(data.id) ?? [];
  if (data.error) reject?.(new Error(data.error.message)); else resolve?.(data.result);
});
const say = (name, value) => {
  const line = document.body.appendChild(document.createElement("p"));
  line.id = name;
  line.textContent = value;
};
const begin = () => ask("ui/initialize", {protocolVersion: "2026-01-26", appInfo: {name: "t", version: "1"},
  appCapabilities: {}}).then((result) => { tell("ui/notifications/initialized", {}); return result; });
