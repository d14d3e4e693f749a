/** The form, drawn from a model's request schema: order, titles, ranges and defaults are the schema's. */

import { $ } from "../core/dom.js";
import { fieldOf } from "./fields/field.js";
import { parameters } from "./settings.js";
import { SizePicker } from "./fields/sizepicker.js";

// where a parameter has its place, whatever the schema shows first
const PLACES = { prompt: "prompt-part", width: "size-part", height: "size-part", num_frames: "length-part" };
const PARTS = [...new Set(Object.values(PLACES)), "basic", "more-fields"];

/** Fires "change" when a value changes. */
export class Form extends EventTarget {
  #fields = new Map();
  #sizes = null;

  /** Draws the fields of a schema. Those without a place of their own are shown first if the schema says so, or folded away. */
  draw(schema, fps) {
    this.schema = schema;
    this.#fields.clear();
    for (const part of PARTS) $(part).replaceChildren();
    for (const [name, property] of parameters(schema)) {
      const field = fieldOf(name, property, schema.required.includes(name), fps, () => this.#changed());
      this.#fields.set(name, field);
      $(PLACES[name] ?? (schema.basic.includes(name) ? "basic" : "more-fields")).append(field.element);
    }
    const { width, height } = schema.properties;
    const limits = { maxWidth: width?.maximum, maxHeight: height?.maximum, maxPixels: schema["x-max-pixels"] };
    this.#sizes = width && height ? new SizePicker(limits, (size) => this.fill(size)) : null;
    // sizes are written width first everywhere
    if (this.#sizes) $("size-part").replaceChildren(this.#sizes.element, ...["width", "height"].map((name) => this.field(name).element));
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

  /** Whether all fields are right. */
  get isRight() {
    return [...this.#fields.values()].every((field) => field.validate());
  }

  /** Whether all fields are right; goes to the first that is not. */
  check() {
    const wrong = [...this.#fields.values()].filter((field) => !field.validate());
    wrong[0]?.focus();
    return wrong.length === 0;
  }

  /** A field of the schema by its name. */
  field(name) {
    return this.#fields.get(name);
  }

  #changed() {
    const { width, height } = this.values;
    this.#sizes?.mark(width, height);
    this.dispatchEvent(new Event("change"));
  }
}
