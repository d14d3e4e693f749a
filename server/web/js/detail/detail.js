/** The detail view: everything about one generation, at an address of its own. Arrow keys go to the next and the one before. */

import { BASE } from "../core/api.js";
import { copyFrom } from "../core/copy.js";
import { $, h, iconButton, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { call, chosen } from "../calls/calls.js";
import { inputsOf } from "../form/inputs.js";
import { settingsOf } from "../form/settings.js";
import { ActionBar, actionsOf } from "../gallery/actions.js";
import { status } from "../gallery/status.js";
import { Viewer } from "../stage/viewer.js";
import { Tags } from "./tags.js";
import { properties } from "./properties.js";

const ADDRESS = /^#generation\/([0-9a-f-]{36})$/u;

/** The generation that the page's address names, null for none. */
export const linked = () => location.hash.match(ADDRESS)?.[1] ?? null;

export class Detail {
  #page;
  #id = null;
  #row = null;
  #order = () => [];
  #before = "";

  /** `page` as stage.js has it, with `generations` and `modelName(id)`. */
  constructor(page) {
    this.#page = page;
    this.dialog = $("detail");
    this.viewer = new Viewer(page);
    this.player = this.viewer.player;
    this.previous = iconButton("previous", t("newer"), () => this.#go(-1));
    this.next = iconButton("next", t("older"), () => this.#go(1));
    const link = iconButton("link", t("copyLink"));
    copyFrom(link, () => this.address);
    this.close = iconButton("close", t("close"), () => this.dialog.close());
    this.title = h("h2", { id: "detail-title" });
    this.actions = h("div", { class: "actions" });
    this.buttons = new ActionBar(this.actions);
    this.warnings = h("ul", { class: "warning" });
    this.prompt = h("p", { class: "whole", dir: "auto", "data-field": "prompt" });
    this.enhanced = h("p", { class: "whole", dir: "auto", "data-field": "enhanced" });
    this.enhancedPart = h("section", {}, h("h3", {}, t("title.enhanced_prompt")), this.enhanced);
    this.inputs = h("div", { class: "inputs" });
    this.facts = h("dl", {});
    this.tags = new Tags((tags) => page.mark(this.#id, { tags }));
    this.code = h("code", {});
    const copy = h("button", { type: "button" }, t("copy"));
    copyFrom(copy, () => this.code.textContent);
    const code = h("details", { class: "call" }, h("summary", {}, t("apiCall")), h("div", { class: "code" }, copy, h("pre", { tabindex: 0, role: "region", "aria-label": t("apiCall") }, this.code)));
    const about = h("div", { class: "about" }, h("section", {}, h("h3", {}, t("title.prompt")), this.prompt), this.enhancedPart,
      this.inputs, this.tags.element, this.warnings, this.facts, code);
    this.dialog.append(h("header", {}, this.previous, this.next, this.title, link, this.close),
      h("div", { class: "sides" }, h("div", { class: "seen" }, this.viewer.element, this.actions), about));
    this.dialog.addEventListener("close", () => this.#closed());
    // the focus may be on nothing at all
    document.addEventListener("keydown", (event) => this.dialog.open && this.#press(event));
    this.dialog.addEventListener("click", ({ target }) => target === this.dialog && this.dialog.close());
    addEventListener("hashchange", () => this.#follow());
  }

  /** The permalink. */
  get address() {
    return `${BASE}#generation/${this.#id}`;
  }

  /** Opens a generation; `order()` gives the ids among which it stands. Throws ApiError if there is none any more. */
  async open(id, order = () => []) {
    this.#order = order;
    this.#id = id;
    if (!this.#page.generations.rows.has(id)) await this.#page.generations.ask(id);
    const row = this.#page.generations.rows.get(id);
    if (row === undefined) return this.#missing();
    if (!linked()) this.#before = location.hash;
    if (linked() !== id) history[this.dialog.open ? "replaceState" : "pushState"](null, "", `#generation/${id}`);
    if (!this.dialog.open) this.dialog.showModal();
    this.#draw(row);
  }

  /** News of the generation that it shows. */
  update(row) {
    if (this.dialog.open && row.generation_id === this.#id) this.#draw(row);
  }

  removed(id) {
    if (this.dialog.open && id === this.#id) this.#go(1) || this.dialog.close();
  }

  #missing() {
    this.#page.tell(t("generationGone"));
    if (linked()) history.replaceState(null, "", this.#before || "#history");
  }

  #follow() {
    const id = linked();
    if (id === null) this.dialog.open && this.dialog.close();
    else if (id !== this.#id || !this.dialog.open) this.#page.detail(id);
  }

  #closed() {
    this.viewer.clear();
    this.#row = null;
    this.buttons.clear();
    if (linked()) history.replaceState(null, "", this.#before || "#create");
  }

  #press(event) {
    const { key, target } = event;
    if (target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const isHandled = by ? this.#go(by) : !target.closest("button, a, summary, [role=menu]") && this.player.press(key);
    if (isHandled) event.preventDefault();
  }

  /** Goes to another in the order; returns whether there is one. */
  #go(by) {
    const order = this.#order();
    const id = order[order.indexOf(this.#id) + by];
    if (id === undefined || !order.includes(this.#id)) return false;
    this.open(id, this.#order).catch((error) => this.#page.tell(error.message));
    return true;
  }

  #draw(row) {
    const schema = this.#page.schemaOf(row);
    if (schema === undefined || row === this.#row) return;
    const isOther = row.generation_id !== this.#row?.generation_id;
    this.#row = row;
    const order = this.#order();
    const place = order.indexOf(this.#id);
    this.previous.disabled = place <= 0;
    this.next.disabled = place < 0 || place === order.length - 1;
    Object.assign(this.dialog.dataset, { id: row.generation_id, status: row.status });
    say(this.title, status(row));
    if (isOther) this.inputs.replaceChildren();
    if (isOther) this.viewer.clear();
    this.viewer.show(row, schema, true);
    this.#offer(row);
    this.warnings.replaceChildren(...(row.warnings ?? []).map((warning) => h("li", {}, warning)));
    say(this.prompt, row.prompt ?? "");
    say(this.enhanced, row.enhanced_prompt ?? "");
    this.enhancedPart.hidden = !row.enhanced_prompt;
    this.inputs.append(...inputsOf(row, this.inputs));
    this.tags.show(row.tags ?? []);
    this.facts.replaceChildren(...properties(row, schema, this.#page).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    say(this.code, call("Async", "cURL", BASE.slice(0, -1), row.model_name, chosen(settingsOf(row, schema), schema, false), schema));
  }

  #offer(row) {
    this.buttons.show(actionsOf(row, this.#page, () => this.player.at).filter(({ name }) => name !== "details"));
  }
}
