/** What the History shows: words, model, date, size, status, favourites and tag. It is remembered until the tab is closed. */

import { request, stored } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { icon } from "../core/icons.js";
import { visit } from "../core/storage.js";
import { t } from "../core/strings.js";

const TYPING_MS = 120;
const DAY_S = 86_400;
const KEPT = stored("history");
const FIELDS = ["search", "model", "status", "size", "tag", "date", "from", "to"];

export class Filters {
  #typing = 0;

  /** `change()` is called when another filter is wanted; `modelName(id)` gives the name by which a model is known. */
  constructor(change, modelName) {
    this.modelName = modelName;
    const kept = JSON.parse(visit.get(KEPT) ?? "{}");
    this.fields = Object.fromEntries(FIELDS.map((name) => [name, $(`history-${name}`)]));
    this.favourite = $("history-favourite");
    this.favourite.prepend(icon("star"));
    this.toggle = $("history-filter");
    this.toggle.addEventListener("click", () => this.toggle.setAttribute("aria-expanded", String(this.toggle.getAttribute("aria-expanded") !== "true")));
    this.favourite.setAttribute("aria-pressed", String(kept.favourite ?? false));
    // the menus are filled later: until then the chosen one alone is in them
    for (const name of ["model", "size", "tag"]) if (kept[name]) this.fields[name].append(h("option", { value: kept[name] }, this.#named(name, kept[name])));
    for (const [name, field] of Object.entries(this.fields)) field.value = kept[name] ?? "";
    const changed = () => {
      this.#keep();
      this.#draw();
      change();
    };
    this.fields.search.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(changed, TYPING_MS);
    });
    for (const name of FIELDS.slice(1)) this.fields[name].addEventListener("change", changed);
    this.favourite.addEventListener("click", () => {
      this.favourite.setAttribute("aria-pressed", String(!this.#isFavourite));
      changed();
    });
    $("history-clear").addEventListener("click", () => {
      for (const field of Object.values(this.fields)) field.value = "";
      this.favourite.setAttribute("aria-pressed", "false");
      changed();
    });
    this.#draw();
  }

  get #isFavourite() {
    return this.favourite.getAttribute("aria-pressed") === "true";
  }

  /** Whether anything is left out. */
  get isSet() {
    return Object.keys(this.query).length > 0;
  }

  /** As the parameters of the request. */
  get query() {
    const { search, model, status, size, tag } = Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name, field.value.trim()]));
    const given = { search, model, status, size, tag, ...this.#dates(), ...(this.#isFavourite && { favourite: "true" }) };
    return Object.fromEntries(Object.entries(given).filter(([, value]) => value));
  }

  #dates() {
    const { date, from, to } = this.fields;
    const midnight = new Date(new Date().toDateString()).getTime() / 1000;
    if (date.value === "today") return { since: midnight };
    if (date.value === "week") return { since: midnight - 6 * DAY_S };
    if (date.value === "month") return { since: midnight - 29 * DAY_S };
    if (date.value !== "between") return {};
    const at = (field, more) => field.value && new Date(`${field.value}T00:00`).getTime() / 1000 + more;
    return { since: at(from, 0), until: at(to, DAY_S - 1) };
  }

  /** Fills the menus with what there is. */
  async refresh() {
    const asked = ["facets", "tags"].map((name) => request(`api/ai/generations/${name}`));
    const [{ models, sizes }, { data: tags }] = await Promise.all(asked).catch(() => [{ models: [], sizes: [] }, { data: [] }]);
    this.#offer("model", models.map(({ model, count }) => [model, `${this.modelName(model)} (${count})`]));
    this.#offer("size", sizes.map(({ size, count }) => [size, `${size.replace("x", " × ")} (${count})`]));
    this.#offer("tag", tags.map(({ tag, count }) => [tag, `${tag} (${count})`]));
    $("tags").replaceChildren(...tags.map(({ tag }) => h("option", { value: tag })));
  }

  #offer(name, options) {
    const field = this.fields[name];
    const { value } = field;
    if (document.activeElement === field) return;
    const others = options.some(([each]) => each === value) || !value ? [] : [[value, this.#named(name, value)]];
    field.replaceChildren(h("option", { value: "" }, t("all")), ...[...options, ...others].map(([each, label]) => h("option", { value: each }, label)));
    field.value = value;
  }

  #named(name, value) {
    return name === "model" ? this.modelName(value) : value;
  }

  #keep() {
    const values = Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name, field.value]));
    visit.set(KEPT, JSON.stringify({ ...values, favourite: this.#isFavourite }));
  }

  #draw() {
    $("history-between").hidden = this.fields.date.value !== "between";
    $("history-clear").hidden = !this.isSet;
    // what is looked for is always in view
    const on = ["model", "status", "size", "tag", "date"].filter((name) => this.fields[name].value).length + Number(this.#isFavourite);
    say(this.toggle, on ? t("filtersOn", { count: on }) : t("filter"));
    this.toggle.classList.toggle("on", on > 0);
  }
}
