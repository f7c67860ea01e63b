/** The servers of the user's connection: how each is, and what can be done about it. */
import { get } from "./api.js";
import { connection, servers } from "./connection.js";
import { user } from "./principal.js";
import { batch, computed, signal } from "./vendor/signals.js";

const MOST_LOOKS = 20;
const LOOK_AGAIN_MS = 500;

/** How many switches there are whose answers are waited for. */
export const switching = { count: 0 };

/**
 * @typedef {{name: string, shown_as: string, enabled: boolean, held: boolean, app: boolean, app_only: boolean}} Tool
 * @typedef {{alias: string, url: string | null, transport: string, operator: boolean, enabled: boolean,
 *   state: "opening" | "open" | "lost" | "sign_in" | "failed" | "off", error: string | null, sign_in_url: string | null, signed_in: boolean,
 *   tools: Tool[], left_out: Record<string, string>, offers: ("prompts" | "resources" | "completions")[]}} Connected
 * @type {{value: Connected[]}}
 */
export const connected = signal([]);

/** The tools whose results an app shows. @type {{value: Set<string>}} */
export const apps = signal(new Set());

/** Look how they are. */
export async function loadServers() {
  const who = user.value;
  const known = await get("llmchat/servers");
  if (who !== user.value) return;
  servers.value = known.servers ?? [];
  if (!switching.count) show(known.connected ?? []);
}

/** Look until a server that its user has just signed in to is open, or something else is known. @param {string} alias @param {string[]} [pending] */
export async function awaitServer(alias, pending = ["sign_in", "opening", "lost"]) {
  for (let tries = 0; tries < MOST_LOOKS; tries++) {
    await loadServers();
    if (!pending.includes(connected.value.find((server) => server.alias === alias)?.state)) return;
    await new Promise((resume) => setTimeout(resume, LOOK_AGAIN_MS));
  }
}

/** @param {Connected[]} list */
export function show(list) {
  const tools = list.filter(({ enabled }) => enabled).flatMap((server) => server.tools);
  batch(() => {
    connected.value = list;
    apps.value = new Set(tools.filter(({ app }) => app).map((tool) => tool.shown_as));
    if (connection.value) connection.value = { ...connection.value, tools: usable(tools), server: nameOf(list) };
  });
}

const usable = (tools) => tools.filter(({ enabled, held, app_only: appOnly }) => enabled && !held && !appOnly).map((tool) => tool.shown_as);

/** Those of which something can be asked. @param {"prompts" | "resources" | "completions"} kind */
export const offering = (kind) => connected.value.filter(({ enabled, state, offers }) => enabled && state === "open" && offers?.includes(kind));

const nameOf = ([first, ...others]) => (others.length ? `${first.alias} +${others.length}` : (first?.alias ?? ""));

/** The servers that want their user to sign in, and the tools that are held back. */
export const waiting = computed(() => connected.value.filter(({ state }) => state === "sign_in"));
export const heldBack = computed(() => connected.value.flatMap(({ enabled, tools }) => (enabled ? tools.filter(({ held }) => held) : [])));
