/** One parameter of a model's schema as a field of the form: its label, its control, a line of help, what is wrong with it. */

import { h, say } from "../../core/dom.js";
import { t } from "../../core/strings.js";
import { title } from "../settings.js";

const MAX_SEED = Number.MAX_SAFE_INTEGER;
// of several videos the n-th has the seed plus n
const DICE = MAX_SEED - 16;
// two of them share a row: a slider each would be too short
const WITHOUT_SLIDER = ["width", "height"];

/** The field of a parameter, as fits its name and type. `onChange()` is called when a person changes it. */
export function fieldOf(name, property, isRequired, fps, onChange) {
  if (name === "seed") return new SeedField(name, property, isRequired, onChange);
  if (name === "num_frames" && fps) return new LengthField(name, property, isRequired, onChange, fps);
  return new Field(name, property, isRequired, onChange);
}

class Field {
  #error;
  slider = null;

  constructor(name, property, isRequired, onChange, fps = null) {
    Object.assign(this, { name, property, isRequired, onChange, fps });
    this.title = title(name, property);
    this.id = `field-${name}`;
    const help = t(`help.${name}`);
    const described = help ? `${this.id}-help ${this.id}-error` : `${this.id}-error`;
    this.input = this.#input(described);
    this.#error = h("p", { class: "error", id: `${this.id}-error`, "aria-live": "polite" });
    const hint = help && h("span", { class: "hint", id: `${this.id}-help` }, help);
    this.element = h("div", { class: `field ${property.type} field-${name}` }, this.label(), this.controls(), hint || null, this.#error);
    this.set(property.default);
  }

  get isNumber() {
    return this.property.type === "integer" || this.property.type === "number";
  }

  label() {
    return h("label", { for: this.id, title: this.property.description }, this.title);
  }

  /** What the value is entered with. */
  controls() {
    return this.withSlider(this.input);
  }

  /** The controls in a row, after a slider if the range has two ends. */
  withSlider(...controls) {
    const { minimum, maximum, type } = this.property;
    if (!this.isNumber || maximum === undefined || WITHOUT_SLIDER.includes(this.name)) return controls;
    const step = type === "integer" ? 1 : 0.1;
    // for the mouse: with the keyboard the number itself is quicker
    const hidden = { "aria-hidden": "true", tabindex: -1 };
    const oninput = () => this.edit(Number(this.slider.value));
    this.slider = h("input", { type: "range", min: minimum, max: maximum, step, ...hidden, oninput });
    return [h("div", { class: "row" }, this.slider, ...controls)];
  }

  #input(described) {
    const about = { id: this.id, name: this.name, "aria-describedby": described, oninput: () => this.edited() };
    const { type, minimum, maximum } = this.property;
    if (type === "boolean") return h("input", { type: "checkbox", ...about });
    if (!this.isNumber) return h("textarea", { rows: this.isRequired ? 5 : 2, ...about });
    const step = type === "integer" ? 1 : "any";
    const placeholder = this.name === "seed" ? t("random") : this.property.default;
    return h("input", { type: "number", min: minimum ?? 0, max: maximum ?? MAX_SEED, step, placeholder, ...about });
  }

  /** The value to send; undefined where none is given and there is no default. */
  get value() {
    const { type, default: standard } = this.property;
    if (type === "boolean") return this.input.checked;
    const written = this.input.value;
    if (this.isNumber) return written === "" ? standard : Number(written);
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
    const sentence = wrong(this, this.value);
    say(this.#error, sentence);
    this.input.setAttribute("aria-invalid", String(sentence !== ""));
    if (this.slider && sentence === "") this.slider.value = this.value;
    return sentence === "";
  }

  edit(value) {
    this.set(value);
    this.onChange();
  }

  edited() {
    this.validate();
    this.onChange();
  }
}

/** What is wrong with a value of a field; empty if nothing is. */
function wrong({ title: field, input, property, isNumber, isRequired }, value) {
  if (!isNumber) return isRequired && value.trim() === "" ? t("error.required", { field }) : "";
  if (input.validity.badInput) return t("error.number", { field });
  if (value === undefined) return "";
  const [low, high] = [Number(input.min), Number(input.max)];
  if (property.type === "integer" && !Number.isInteger(value)) return t("error.integer", { field });
  return value < low || value > high ? t("error.range", { field, low, high }) : "";
}

/** A seed, random unless it is kept. */
class SeedField extends Field {
  controls() {
    const rolled = () => Math.floor(Math.random() * DICE);
    const icon = (name, onclick) =>
      h("button", { type: "button", class: `icon ${name}`, "aria-label": t(name), title: t(name), onclick });
    this.lock = icon("lock", () => this.edit(this.value === undefined ? rolled() : undefined));
    return h("div", { class: "row" }, this.input, icon("dice", () => this.edit(rolled())), this.lock);
  }

  validate() {
    this.lock.setAttribute("aria-pressed", String(this.input.value !== ""));
    return super.validate();
  }
}

/** A number of frames, beside the seconds that they last. */
class LengthField extends Field {
  label() {
    this.title = t("frameCount");
    return h("label", { for: "field-seconds" }, t("length"));
  }

  controls() {
    const oninput = () => {
      const isGiven = this.seconds.value !== "";
      this.input.value = isGiven ? Math.round(Number(this.seconds.value) * this.fps) : "";
      this.edited();
    };
    this.seconds = h("input", { id: "field-seconds", type: "number", min: 0, step: "any", "aria-describedby": `${this.id}-error`, oninput });
    const unit = (input, name) => h("label", { class: "unit", for: input.id }, name);
    // the first says what the heading says, so that it has one name
    const row = [this.seconds, h("span", { class: "unit", "aria-hidden": "true" }, t("secondsUnit")), this.input, unit(this.input, t("frameCount"))];
    return [this.withSlider(...row), h("span", { class: "hint" }, t("help.length", { fps: this.fps }))].flat();
  }

  validate() {
    // what is being written is left alone
    if (document.activeElement !== this.seconds) this.seconds.value = this.value === undefined ? "" : Number((this.value / this.fps).toFixed(2));
    const isRight = super.validate();
    this.seconds.setAttribute("aria-invalid", String(!isRight));
    return isRight;
  }
}
