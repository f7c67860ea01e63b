/** Whether the sidebar is there, beside the page, or over it where there is no room for both, and what is looked for in it. */
import { sessions } from "./sessions.js";
import { prefer, preferred } from "./storage.js";
import { computed, signal } from "./vendor/signals.js";

const small = matchMedia("(max-width: 48rem)");

/** Whether there is anything to show in it: without a database conversations are not listed. */
export const possible = computed(() => sessions.value !== null);

/** Whether it is a drawer, over the page. */
export const drawer = signal(small.matches);

export const isOpen = signal(!small.matches && preferred("sidebar") !== "closed");

small.addEventListener("change", () => {
  drawer.value = small.matches;
  isOpen.value = !small.matches && preferred("sidebar") !== "closed";
});

/** The words that are looked for in all conversations. */
export const query = signal("");

/** @param {boolean} open remembered, unless it is a drawer: that is opened each time anew */
export function setOpen(open) {
  isOpen.value = open;
  if (!drawer.value) prefer("sidebar", open ? "open" : "closed");
}

/** Once something was chosen the page is wanted. */
export const giveWay = () => drawer.value && setOpen(false);
