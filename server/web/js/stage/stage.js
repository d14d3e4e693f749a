/** The stage: the generation that was picked or runs, large, with how it is doing and what can be done with it. */

import { h, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { facts } from "../form/settings.js";
import { inputsOf } from "../form/inputs.js";
import { ActionBar, actionsOf } from "../gallery/actions.js";
import { isActive } from "../gallery/generations.js";
import { MadeOf } from "../gallery/madeof.js";
import { status } from "../gallery/status.js";
import { Viewer } from "./viewer.js";

export class Stage {
  row = null;
  #page;
  // whether it was seen to run: then its video plays at once
  #wasActive = false;

  /** `page` as actions.js has it, with `schemaOf(row)`, `fpsOf(row)`, `refresh(id)`, `changeForm(values)`. */
  constructor(element, page) {
    this.element = element;
    this.#page = page;
    this.viewer = new Viewer(page);
    this.player = this.viewer.player;
    this.status = h("p", { class: "status" });
    this.bar = h("progress", { max: 1, "aria-label": t("progress") });
    this.warnings = h("p", { class: "warning" });
    this.prompt = h("p", { class: "prompt", dir: "auto" });
    this.madeOf = new MadeOf(() => page.use(this.row, { prompt: this.row.enhanced_prompt, enhance_prompt: false, inspiration: false }));
    this.inputs = h("div", { class: "inputs" });
    this.facts = h("ul", { class: "facts" });
    this.actions = h("div", { class: "actions" });
    this.buttons = new ActionBar(this.actions);
    const words = h("div", { class: "words" }, this.status, this.bar, this.prompt, this.actions, this.warnings,
      this.madeOf.element, this.inputs, this.facts);
    element.append(this.viewer.element, words);
    element.hidden = true;
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  get id() {
    return this.row?.generation_id ?? null;
  }

  /** Puts a generation on the stage, null for none. */
  put(row) {
    if (row?.generation_id !== this.id) this.#clear();
    this.row = null;
    if (row) return this.update(row);
    this.element.hidden = true;
    delete this.element.dataset.id;
    this.prompt.textContent = "";
  }

  /** News of the generation that is on it. */
  update(row) {
    const schema = this.#page.schemaOf(row);
    if (schema === undefined || row === this.row) return;
    this.row = row;
    this.#wasActive ||= isActive(row);
    this.element.hidden = false;
    Object.assign(this.element.dataset, { id: row.generation_id, status: row.status });
    say(this.status, status(row));
    this.bar.hidden = !isActive(row);
    if (row.status === "processing") this.bar.value = row.progress;
    else this.bar.removeAttribute("value");
    say(this.warnings, (row.warnings ?? []).join(" "));
    say(this.prompt, row.prompt ?? "");
    this.madeOf.update(row);
    this.inputs.append(...inputsOf(row, this.inputs));
    this.#tell(facts(row, schema));
    this.viewer.show(row, schema, this.#wasActive);
    this.#offer(row);
  }

  /** Whether a comparison holds it has changed elsewhere. */
  mark() {
    if (this.row) this.#offer(this.row);
  }

  #tell(words) {
    if (words.join() === [...this.facts.children].map((item) => item.textContent).join()) return;
    this.facts.replaceChildren(...words.map((fact) => h("li", {}, fact)));
  }

  #clear() {
    this.#wasActive = false;
    this.buttons.clear();
    for (const input of this.inputs.children) input.removeAttribute("src");
    this.inputs.replaceChildren();
    this.viewer.clear();
  }

  #offer(row) {
    this.buttons.show(actionsOf(row, this.#page, () => this.player.at));
  }

  #press(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || this.element.closest("[hidden]") || document.querySelector("dialog[open]")) return;
    const isFree = target === document.body || target === this.player.video;
    if (isFree && this.player.press(key)) event.preventDefault();
  }
}
