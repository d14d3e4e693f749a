/** How the videos are compared: the mode, which two of them, and how strongly the difference is amplified. */

import { $, h } from "../core/dom.js";
import { t } from "../core/strings.js";
import { letter } from "./figures.js";
import { GAINS, MODES } from "./kept.js";

const NAMES = { side: "compare.side", wipe: "compare.wipe", overlay: "compare.overlay", difference: "compare.difference" };

/** A choice of one of several values as buttons that touch each other. */
function segments(element, name, legend, values, textOf, chosen, choose) {
  const radios = values.map((value) => {
    const radio = h("input", { type: "radio", name, value, onchange: () => choose(value) });
    radio.checked = value === chosen;
    return h("label", {}, radio, h("span", {}, textOf(value)));
  });
  element.replaceChildren(h("legend", {}, legend), ...radios);
}

export class Choices {
  #kept;
  #changed;

  /** `kept` remembers what is chosen; `changed()` is called when it is another. */
  constructor(kept, changed) {
    this.#kept = kept;
    this.#changed = changed;
    segments($("compare-modes"), "compare-mode", t("compare.mode"), MODES, (mode) => t(NAMES[mode]), kept.mode, (mode) => this.#set("mode", mode));
    segments($("compare-gains"), "compare-gain", t("compare.gain"), GAINS, (gain) => `×${gain}`, kept.gain, (gain) => this.#set("gain", gain));
    const opacity = $("compare-opacity");
    opacity.value = kept.opacity;
    opacity.addEventListener("input", () => this.#set("opacity", Number(opacity.value)));
    $("compare-swap").addEventListener("click", () => this.#set("pair", this.pair.toReversed()));
    $("compare-swap").title = t("compare.swap");
    $("compare-first").addEventListener("change", ({ target }) => this.#pick(0, target.value));
    $("compare-second").addEventListener("change", ({ target }) => this.#pick(1, target.value));
  }

  #set(name, value) {
    this.#kept[name] = value;
    this.#changed();
  }

  /** Picks one of the two; if it is the other one, both change places. */
  #pick(place, id) {
    const before = this.pair;
    if (before[1 - place] === id) return this.#set("pair", before.toReversed());
    this.#set("pair", place === 0 ? [id, before[1]] : [before[0], id]);
  }

  /** Shows what there is to choose for these videos; `pair` is which two of them are compared. */
  draw(ids, pair) {
    this.pair = pair;
    const { mode, opacity } = this.#kept;
    $("compare-pair").hidden = mode === "side";
    $("compare-gains").hidden = mode !== "difference";
    $("compare-opacity-field").hidden = mode !== "overlay";
    for (const [place, id] of [[0, "compare-first"], [1, "compare-second"]]) {
      const select = $(id);
      const options = ids.map((each, n) => h("option", { value: each }, letter(n)));
      select.replaceChildren(...options);
      select.value = pair[place];
      select.hidden = ids.length < 3;
      $(`${id}-letter`).hidden = ids.length >= 3;
      $(`${id}-letter`).textContent = letter(ids.indexOf(pair[place]));
    }
    const name = letter(ids.indexOf(pair[1]));
    $("compare-opacity-label").textContent = t("compare.opacity", { letter: name });
    $("compare-opacity").setAttribute("aria-valuetext", t("percent", { percent: opacity }));
  }
}
