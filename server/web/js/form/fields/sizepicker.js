/** Buttons for the usual shapes and resolutions. */

import { h } from "../../core/dom.js";
import { t } from "../../core/strings.js";
import { nearest, RATIOS, RESOLUTIONS, shapeOf, sizeOf } from "./sizes.js";

/** The shape drawn small; nothing for a resolution. */
const outline = (change, name) => (change === "ratio" ? h("span", { class: "outline", "data-shape": name, "aria-hidden": "true" }) : null);

export class SizePicker {
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
        names.map((name) => h("button", { type: "button", "data-name": name, onclick: pick({ [change]: name }) }, outline(change, name), name)),
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
