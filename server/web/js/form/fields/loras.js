/** LoRAs of a video: added from those that the server offers for the model, each with a strength, and taken away again. */

import { request } from "../../core/api.js";
import { $, h, say } from "../../core/dom.js";
import { t } from "../../core/strings.js";

const MOST = 8;
const STRONGEST = 4;
// beyond these most LoRAs only break the picture
const USUAL = 2;

export function toText(loras) {
  const of = ({ name, strength }) => (strength === undefined || strength === null ? name : `${name}:${strength}`);
  return Array.isArray(loras) ? loras.map(of).join("; ") : "";
}

/** Its element has a value, as a request has it, and fires "change" as a field does. */
export class LoraPicker {
  #known = new Map();
  #rows = [];

  constructor() {
    this.element = $("loras");
    this.list = h("ul", { class: "loras" });
    this.add = $("lora-add");
    this.error = h("p", { class: "error", "aria-live": "polite" });
    this.element.append(this.list, this.error);
    this.add.addEventListener("change", () => this.#chosen());
    Object.defineProperty(this.element, "value", { get: () => this.value, set: (value) => this.#fill(value) });
  }

  /** The LoRAs and those strengths that are not their own; undefined without any. */
  get value() {
    const of = ({ name, number }) => {
      const strength = Number(number.value);
      return number.value === "" || strength === this.#standard(name) ? { name } : { name, strength };
    };
    return this.#rows.length ? this.#rows.map(of) : undefined;
  }

  get names() {
    return this.#rows.map(({ name }) => name);
  }

  /** Offers a model's LoRAs; without any, the field is hidden. */
  async offer(model) {
    const { data } = await request(`api/ai/loras?model=${encodeURIComponent(model)}`).catch(() => ({ data: [] }));
    if ($("model").value !== model) return;
    this.#known = new Map(data.map((lora) => [lora.name, lora]));
    $("lora-field").hidden = data.length === 0;
    if (!data.length) this.#rows = [];
    const kept = this.value;
    this.#fill(kept);
    this.element.dispatchEvent(new Event("change"));
  }

  /** Whether the server takes what is chosen, as far as is known here. */
  get isRight() {
    return !this.#judge() && this.names.every((name) => this.#known.has(name));
  }

  /** Whether all strengths are right; goes to the first that is not. */
  check() {
    const wrong = this.#judge();
    wrong?.closest("details").setAttribute("open", "");
    wrong?.focus();
    return !wrong;
  }

  #standard(name) {
    return this.#known.get(name)?.strength ?? 1;
  }

  #fill(loras) {
    this.#rows = (Array.isArray(loras) ? loras : []).slice(0, MOST).map(({ name, strength }) => this.#row(String(name), strength));
    this.#draw();
  }

  #chosen() {
    const name = this.add.value;
    if (!name) return;
    this.#rows.push(this.#row(name));
    this.#draw();
    this.#changed();
    this.#rows.at(-1).number.focus();
  }

  #row(name, strength = this.#standard(name)) {
    const range = { min: -USUAL, max: USUAL, step: 0.05 };
    const slider = h("input", { type: "range", ...range, value: strength, "aria-hidden": "true", tabindex: -1 });
    const label = t("lora.strength", { name });
    const number = h("input", { type: "number", min: -STRONGEST, max: STRONGEST, step: "any", value: strength, "aria-label": label });
    slider.addEventListener("input", () => {
      number.value = slider.value;
      this.#changed();
    });
    number.addEventListener("input", () => {
      slider.value = number.value;
      this.#changed();
    });
    const remove = () => {
      this.#rows = this.#rows.filter((row) => row.number !== number);
      this.#draw();
      this.#changed();
      this.add.focus();
    };
    const about = this.#known.get(name)?.description;
    const head = h("b", { title: about }, name);
    const gone = this.#known.size && !this.#known.has(name) ? h("span", { class: "error" }, t("lora.unknown")) : null;
    const away = h("button", { type: "button", class: "icon away", "aria-label": t("lora.remove", { name }), onclick: remove });
    return { name, number, element: h("li", {}, head, gone, h("div", { class: "row" }, slider, number, away)) };
  }

  #draw() {
    this.list.replaceChildren(...this.#rows.map(({ element }) => element));
    const left = [...this.#known.keys()].filter((name) => !this.names.includes(name));
    this.add.replaceChildren(h("option", { value: "" }, t("lora.add")), ...left.map((name) => h("option", { value: name }, name)));
    this.add.disabled = left.length === 0 || this.#rows.length >= MOST;
    this.#judge();
  }

  #changed() {
    this.#judge();
    this.element.dispatchEvent(new Event("change"));
  }

  #sentence({ name: field, number }) {
    return number.validity.customError ? t("lora.zero", { field }) : t("error.range", { field, low: -STRONGEST, high: STRONGEST });
  }

  /** Says which strength is wrong, if one is, and returns it. */
  #judge() {
    // none would be merged with it
    for (const { number } of this.#rows) number.setCustomValidity(number.value !== "" && Number(number.value) === 0 ? "0" : "");
    const wrong = this.#rows.find(({ number }) => !number.validity.valid);
    for (const { number } of this.#rows) number.setAttribute("aria-invalid", String(!number.validity.valid));
    say(this.error, wrong ? this.#sentence(wrong) : "");
    return wrong?.number;
  }
}
