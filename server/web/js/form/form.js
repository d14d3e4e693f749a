/** The form, drawn from a model's request schema: order, titles, ranges and defaults are the schema's. */

import { h, say } from "../core/dom.js";
import { parameters, title } from "./settings.js";
import { nearest, RATIOS, RESOLUTIONS, shapeOf, sizeOf } from "./sizes.js";
import { t } from "../core/strings.js";

const MAX_SEED = Number.MAX_SAFE_INTEGER;
// of several videos the n-th has the seed plus n
const DICE = MAX_SEED - 16;

/** Fires "change" when a value changes. */
export class Form extends EventTarget {
  #fields = new Map();
  #sizes = null;

  /** Draws the fields of a schema, the basic ones into one element and the others into another. */
  draw(schema, fps, basic, more) {
    this.schema = schema;
    this.#fields.clear();
    basic.replaceChildren();
    more.replaceChildren();
    for (const [name, property] of parameters(schema)) {
      const field = new Field(name, property, schema.required.includes(name), fps, () => this.#changed());
      this.#fields.set(name, field);
      (schema.basic.includes(name) ? basic : more).append(field.element);
    }
    const { width, height } = schema.properties;
    const limits = { maxWidth: width?.maximum, maxHeight: height?.maximum, maxPixels: schema["x-max-pixels"] };
    this.#sizes = width && height ? new Sizes(limits, (size) => this.fill(size)) : null;
    if (this.#sizes) this.#fields.get("prompt").element.after(this.#sizes.element);
    this.#changed();
  }

  /** Name → value, in the schema's order; a seed only if one is kept. */
  get values() {
    const values = [...this.#fields].map(([name, field]) => [name, field.value]);
    return Object.fromEntries(values.filter(([, value]) => value !== undefined));
  }

  /** The same without what is the schema's default, but for what is required. */
  get changed() {
    const { properties, required } = this.schema;
    const isOwn = ([name, value]) => required.includes(name) || value !== properties[name].default;
    return Object.fromEntries(Object.entries(this.values).filter(isOwn));
  }

  /** Sets the fields that are named; names the schema does not have are left out. */
  fill(values) {
    for (const [name, value] of Object.entries(values)) this.#fields.get(name)?.set(value);
    this.#changed();
  }

  /** Takes the shape of an input with these sides, unless it has that shape. */
  fit(width, height) {
    this.#sizes?.fit(width, height);
  }

  /** Every field at its default. */
  reset() {
    for (const field of this.#fields.values()) field.set(field.property.default);
    this.#changed();
  }

  /** Whether all fields are right; goes to the first that is not. */
  check() {
    const wrong = [...this.#fields.values()].filter((field) => !field.validate());
    wrong[0]?.focus();
    return wrong.length === 0;
  }

  #changed() {
    const { width, height } = this.values;
    this.#sizes?.mark(width, height);
    this.dispatchEvent(new Event("change"));
  }
}

class Field {
  #error;
  #slider = null;
  #lock = null;
  #hint = null;

  constructor(name, property, isRequired, fps, onChange) {
    Object.assign(this, { name, property, isRequired, fps, onChange });
    this.title = title(name, property);
    this.id = `field-${name}`;
    this.input = this.#input();
    this.#error = h("p", { class: "error", id: `${this.id}-error`, "aria-live": "polite" });
    const label = h("label", { for: this.id, title: property.description }, this.title);
    this.element = h("div", { class: `field ${property.type} field-${name}` }, label, ...this.#controls(), this.#error);
    this.set(property.default);
  }

  get #isNumber() {
    return this.property.type === "integer" || this.property.type === "number";
  }

  #input() {
    const about = { id: this.id, name: this.name, "aria-describedby": `${this.id}-error`, oninput: () => this.#edited() };
    const { type, minimum, maximum } = this.property;
    if (type === "boolean") return h("input", { type: "checkbox", ...about });
    if (!this.#isNumber) return h("textarea", { rows: this.isRequired ? 4 : 2, ...about });
    const step = type === "integer" ? 1 : "any";
    const placeholder = this.name === "seed" ? t("random") : this.property.default;
    return h("input", { type: "number", min: minimum ?? 0, max: maximum ?? MAX_SEED, step, placeholder, ...about });
  }

  #controls() {
    if (this.name === "seed") {
      const rolled = () => Math.floor(Math.random() * DICE);
      const dice = () => this.#edit(rolled());
      const lock = () => this.#edit(this.value === undefined ? rolled() : undefined);
      this.#lock = h("button", { type: "button", class: "icon lock", "aria-label": t("lock"), title: t("lock"), onclick: lock });
      const roll = h("button", { type: "button", class: "icon dice", "aria-label": t("dice"), title: t("dice"), onclick: dice });
      return [h("div", { class: "row" }, this.input, roll, this.#lock)];
    }
    const { minimum, maximum, type } = this.property;
    if (!this.#isNumber || maximum === undefined) return [this.input];
    const step = type === "integer" ? 1 : 0.1;
    // for the mouse: with the keyboard the number itself is quicker
    const hidden = { "aria-hidden": "true", tabindex: -1 };
    const oninput = () => this.#edit(Number(this.#slider.value));
    this.#slider = h("input", { type: "range", min: minimum, max: maximum, step, ...hidden, oninput });
    this.#hint = this.name === "num_frames" && this.fps ? h("span", { class: "hint" }) : null;
    return [h("div", { class: "row" }, this.#slider, this.input), this.#hint];
  }

  /** The value to send; undefined where none is given and there is no default. */
  get value() {
    const { type, default: standard } = this.property;
    if (type === "boolean") return this.input.checked;
    const written = this.input.value;
    if (this.#isNumber) return written === "" ? standard : Number(written);
    // a default of blanks looks empty, and empty means it
    return written.trim() === "" && standard?.trim() === "" ? standard : written;
  }

  set(value) {
    if (this.property.type === "boolean") this.input.checked = Boolean(value);
    else this.input.value = value ?? "";
    this.validate();
  }

  focus() {
    this.input.closest("details")?.setAttribute("open", "");
    this.input.focus();
  }

  /** Shows what is wrong with the value, if anything is; returns whether it is right. */
  validate() {
    const sentence = this.#sentence();
    say(this.#error, sentence);
    this.input.setAttribute("aria-invalid", String(sentence !== ""));
    if (this.#slider && sentence === "") this.#slider.value = this.value;
    if (this.#lock) this.#lock.setAttribute("aria-pressed", String(this.input.value !== ""));
    if (this.#hint) say(this.#hint, t("hint.seconds", { seconds: (this.value / this.fps).toFixed(1), fps: this.fps }));
    return sentence === "";
  }

  #sentence() {
    const field = this.title;
    if (!this.#isNumber) return this.isRequired && this.value.trim() === "" ? t("error.required", { field }) : "";
    if (this.input.validity.badInput) return t("error.number", { field });
    if (this.value === undefined) return "";
    const [low, high] = [Number(this.input.min), Number(this.input.max)];
    if (this.property.type === "integer" && !Number.isInteger(this.value)) return t("error.integer", { field });
    return this.value < low || this.value > high ? t("error.range", { field, low, high }) : "";
  }

  #edit(value) {
    this.set(value);
    this.onChange();
  }

  #edited() {
    this.validate();
    this.onChange();
  }
}

/** Buttons for the usual shapes and resolutions. */
class Sizes {
  #ratio = "16:9";
  #resolution = "480p";
  #shape = "16:9";

  constructor(limits, choose) {
    this.limits = limits;
    this.choose = choose;
    const pick = (change) => () => this.#pick(change);
    const group = (label, names, change) =>
      h(
        "div",
        { class: "choices", role: "group", "aria-label": label },
        h("span", { class: "label", "aria-hidden": "true" }, label),
        names.map((name) => h("button", { type: "button", "data-name": name, onclick: pick({ [change]: name }) }, name)),
      );
    this.ratios = group(t("shape"), RATIOS, "ratio");
    this.resolutions = group(t("resolution"), RESOLUTIONS, "resolution");
    this.element = h("div", { class: "sizes" }, this.ratios, this.resolutions);
  }

  #pick(change) {
    const { ratio, resolution } = { ratio: this.#ratio, resolution: this.#resolution, ...change };
    const [width, height] = sizeOf(resolution, ratio, this.limits);
    this.choose({ width, height });
  }

  fit(width, height) {
    const ratio = shapeOf(width, height);
    if (ratio !== this.#shape) this.#pick({ ratio });
  }

  /** Shows which buttons the size is of. */
  mark(width, height) {
    const { ratio, resolution, exact } = nearest(width, height, this.limits);
    [this.#ratio, this.#resolution, this.#shape] = [ratio, resolution, shapeOf(width, height)];
    for (const [group, name] of [[this.ratios, ratio], [this.resolutions, resolution]]) {
      for (const button of group.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(exact && button.dataset.name === name));
      }
    }
  }
}
