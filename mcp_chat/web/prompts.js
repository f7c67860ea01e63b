/** The server's prompt that the next message begins with. */
import { signal } from "./vendor/signals.js";

/**
 * @typedef {{server: string, name: string, title: string, description: string, arguments: import("./offers.js").Argument[]}} Prompt
 * @typedef {Prompt & {values: Record<string, string>}} Chosen
 * @type {{value: Chosen | null}}
 */
export const prompt = signal(null);

/** What the request says of it. @param {Chosen} chosen */
export const promptOf = (chosen) => ({ server: chosen.server, name: chosen.name, arguments: filled(chosen) });

/** Whether something that must be filled in is not. @param {Chosen} chosen */
export const incomplete = ({ arguments: all, values }) => all.some(({ name, required }) => required && !values[name]);

/** @param {Chosen} chosen */
export const filled = ({ values }) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
