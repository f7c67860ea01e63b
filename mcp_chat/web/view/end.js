/** The end of a list that goes on: what follows is fetched when it comes into view. */
import { html } from "../html.js";
import { strings } from "../strings.js";
import { useEffect, useRef } from "../vendor/preact-hooks.js";

const AHEAD_PX = 200;

/** @param {{more: string | null, reached: () => void}} props */
export function End({ more, reached }) {
  const mark = useRef(null);
  useEffect(() => {
    if (!more) return undefined;
    const watcher = new IntersectionObserver(([seen]) => seen.isIntersecting && reached(), { root: mark.current.closest(".scroll"), rootMargin: `${AHEAD_PX}px` });
    watcher.observe(mark.current);
    return () => watcher.disconnect();
  }, [more]);
  return more && html`<p class="nothing" ref=${mark}><span class="spinner" role="status" aria-label=${strings.loading} /></p>`;
}
