/** The user's servers: what leads to them, and whether one needs the user. */
import { html } from "../html.js";
import { loadGrants } from "../grants.js";
import { heldBack, loadServers, waiting } from "../servers.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";
import { useSignal } from "../vendor/signals.js";
import { Icon } from "./icon.js";
import { lazy } from "./lazy.js";

const Panel = lazy(() => import("./serverpanel.js").then((module) => module.Panel), "style/servers.css");

const LOOK_EVERY_MS = 3000;

/** @param {{names: string[]}} props the tools that are used */
export function Servers({ names }) {
  const box = useRef(null);
  const open = useSignal(false);
  useEffect(() => closeWhenLeft(box.current), []);
  useEffect(() => lookWhileOpen(box.current), []);
  return html`
    <details class="tools" ref=${box} data-testid="servers" onToggle=${() => (open.value ||= box.current.open)}>
      <summary class="button small quiet">
        <span data-testid="tool-count">${strings.status.tools(names.length)}</span><${Wanted} /><${Icon} name="chevron" />
      </summary>
      <div class="panel">${open.value && html`<${Panel} />`}</div>
    </details>
  `;
}

/** That a server or a tool waits for the user. */
function Wanted() {
  if (!waiting.value.length && !heldBack.value.length) return null;
  const text = waiting.value.length ? strings.servers.states.sign_in : strings.servers.toolsChanged(heldBack.value.length);
  return html`<span class="dot bad" title=${text} data-testid="wanted" /><span class="visually-hidden">${text}</span>`;
}

/** @param {HTMLDetailsElement} box */
function lookWhileOpen(box) {
  const look = () => box.open && document.visibilityState === "visible" && loadServers().catch(() => {});
  const timer = setInterval(look, LOOK_EVERY_MS);
  const onToggle = (event) => event.target === box && (look(), box.open && loadGrants().catch(() => {}));
  box.addEventListener("toggle", onToggle);
  return () => {
    clearInterval(timer);
    box.removeEventListener("toggle", onToggle);
  };
}

/** Escape, or a click elsewhere, closes it. @param {HTMLDetailsElement} box */
function closeWhenLeft(box) {
  const onPointer = (event) => box.contains(event.target) || (box.open = false);
  const onKey = (event) => {
    if (event.key !== "Escape" || !box.open) return;
    box.open = false;
    box.querySelector("summary").focus();
  };
  document.addEventListener("pointerdown", onPointer);
  document.addEventListener("keydown", onKey);
  return () => {
    document.removeEventListener("pointerdown", onPointer);
    document.removeEventListener("keydown", onKey);
  };
}
