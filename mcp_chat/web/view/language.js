/** The choice of a language, each by its own name. */
import { html } from "../html.js";
import { choose, language, LANGUAGES } from "../language.js";
import { report } from "../problem.js";
import { strings } from "../strings.js";

export const Language = () => html`
  <select class="language" aria-label=${strings.language} title=${strings.language} value=${language()} data-testid="language"
    onChange=${(event) => choose(event.target.value).catch(report)}>
    ${Object.entries(LANGUAGES).map(([tag, name]) => html`<option key=${tag} value=${tag} lang=${tag} selected=${tag === language()}>${name}</option>`)}
  </select>
`;
