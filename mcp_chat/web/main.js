/** Start: show the page, then find out who is asking. */
import { h, render } from "./vendor/preact.js";
import { start } from "./start.js";
import { App } from "./view/app.js";

if (window.parent !== window || location.search) (await import("./embedding.js")).embed(); // alone, nobody asks for a look
render(h(App), document.getElementById("app"));
start();
