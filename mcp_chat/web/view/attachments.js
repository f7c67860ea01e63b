/** What goes with a message, over the text field and in the conversation: a prompt, files, resources. */
import { modelName } from "../connection.js";
import { arriving, some, unseen } from "../enclosed.js";
import { toComposer } from "../focus.js";
import { size, visible } from "../format.js";
import { html } from "../html.js";
import { completePrompt, completeTemplate, detach, fillIn, fillInTemplate } from "../offers.js";
import { report } from "../problem.js";
import { prompt } from "../prompts.js";
import { attachTemplate, chosen, MOST_RESOURCES, template, unfilled } from "../resources.js";
import { strings } from "../strings.js";
import { drop, files } from "../uploads.js";
import { Arguments } from "./arguments.js";
import { Files } from "./files.js";
import { Icon } from "./icon.js";
import { Notice } from "./notice.js";

/** All that goes with the next message. */
export function Enclosed() {
  if (!some.value) return null;
  return html`
    <div class="enclosed" role="group" aria-label=${strings.enclosed.list} aria-busy=${arriving.value} data-testid="enclosed">
      ${prompt.value && html`<${PromptCard} key=${`${prompt.value.server} ${prompt.value.name}`} of=${prompt.value} />`}
      ${template.value && html`<${TemplateCard} key=${template.value.template} of=${template.value} />`}
      <ul class="attached">
        ${files.value.map((file) => html`<${Attached} key=${file.key} file=${file} />`)}
        ${chosen.value.map((each) => html`<${Resource} key=${`${each.server} ${each.uri}`} of=${each} />`)}
      </ul>
    </div>
    ${unseen.value && html`<${Notice} text=${strings.enclosed.unseen(visible(modelName.value))} testid="unseen" />`}
  `;
}

/** @param {{of: import("../prompts.js").Chosen}} props */
function PromptCard({ of: { server, name, title, description, arguments: fields, values } }) {
  const giveUp = () => ((prompt.value = null), toComposer());
  return html`
    <section class="offer" aria-label=${strings.enclosed.prompt(visible(title || name))} data-testid="prompt">
      <${Head} title=${title || name} server=${server} detail=${description} remove=${giveUp} />
      ${fields.length > 0 && html`
        <${Arguments} id="prompt-argument" fields=${fields} values=${values} set=${fillIn} complete=${completePrompt} done=${toComposer} giveUp=${giveUp} />`}
    </section>
  `;
}

/** @param {{of: NonNullable<typeof template.value>}} props */
function TemplateCard({ of }) {
  const giveUp = () => ((template.value = null), toComposer());
  const done = () => {
    if (!template.value || unfilled()) return;
    if (!attachTemplate()) report(strings.enclosed.tooManyResources(MOST_RESOURCES));
    toComposer();
  };
  return html`
    <section class="offer" aria-label=${visible(of.title || of.name)} data-testid="template">
      <${Head} title=${of.title || of.name} server=${of.server} detail=${of.template} remove=${giveUp} />
      <${Arguments} id="template-argument" fields=${of.fields} values=${of.values} set=${fillInTemplate} complete=${completeTemplate} done=${done} giveUp=${giveUp} />
      <button type="button" class="button small" data-testid="template-attach" onClick=${done}>${strings.enclosed.attachResource}</button>
    </section>
  `;
}

function Head({ title, server, detail, remove }) {
  return html`
    <h3>
      <b dir="auto">${visible(title)}</b><span class="chip" dir="auto">${visible(server)}</span>
      <${Remove} name=${title} remove=${remove} />
    </h3>
    ${detail && html`<p class="aside" dir="auto">${visible(detail)}</p>`}
  `;
}

/** @param {{file: import("../uploads.js").Attached}} props */
function Attached({ file }) {
  const { key, name, state, part, error } = file;
  const percent = Math.round(part * 100);
  return html`
    <li class="enclosure" data-testid="attachment" data-state=${state}>
      <${Sign} file=${file} />
      <span class="what">
        <b dir="auto">${visible(name)}</b>
        ${state === "sending" && html`<progress max="100" value=${percent} aria-label=${strings.enclosed.sending(visible(name), percent)} />`}
        ${state === "ready" && html`<small>${size(file.size)}</small>`}
        ${error && html`<small class="fault" role="alert" dir="auto">${visible(error)}</small>`}
      </span>
      <${Remove} name=${name} remove=${() => (drop(key), toComposer())} />
    </li>
  `;
}

/** A picture itself, or a sign for anything else. */
function Sign({ file: { id, name, type, state } }) {
  if (state === "ready" && type.startsWith("image/")) return html`<${Files} files=${[{ upload_id: id, name, media_type: type }]} />`;
  return html`<span class="sign"><${Icon} name=${state === "failed" ? "alert" : "file"} /></span>`;
}

/** @param {{of: import("../resources.js").Resource}} props */
const Resource = ({ of }) => html`
  <li class="enclosure" data-testid="resource" title=${visible(of.uri)}>
    <span class="sign"><${Icon} name="link" /></span>
    <span class="what"><b dir="auto">${visible(of.title || of.name || of.uri)}</b><small dir="auto">${strings.enclosed.from(visible(of.server))}</small></span>
    <${Remove} name=${of.title || of.name || of.uri} remove=${() => (detach(of), toComposer())} />
  </li>
`;

function Remove({ name, remove }) {
  const label = strings.enclosed.remove(visible(name));
  return html`
    <button type="button" class="icon-button small" aria-label=${label} title=${label} data-testid="enclosed-remove" onClick=${remove}>
      <${Icon} name="close" />
    </button>
  `;
}

/** What went with a message of the conversation. @param {{message: import("../turn.js").Message}} props */
export function WentWith({ message: { files: all = [], prompt: of } }) {
  const kept = all.filter(({ upload_id: id }) => id);
  const asked = all.filter(({ upload_id: id }) => !id);
  if (!all.length && !of) return null;
  return html`
    <div class="went" data-testid="went-with">
      ${of && html`<span class="chip" dir="auto">${strings.enclosed.prompt(visible(of.name))} · ${visible(of.server)}</span>`}
      ${asked.map(({ name, uri }) => html`<span class="chip" key=${uri} dir="auto">${visible(name)}</span>`)}
      ${kept.length > 0 && html`<${Files} files=${kept} />`}
    </div>
  `;
}
