/** What a video is made of instead of its prompt: one line on its card, which opens. */

import { h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

// more does not fit into the line, and a screen reader would read all of it
const SHOWN = 120;

export class MadeOf {
  /** `use` is called when the text is wanted as the prompt. */
  constructor(use) {
    this.start = h("span", { class: "start", dir: "auto" });
    this.text = h("p", { class: "whole", dir: "auto" });
    this.model = h("span", { class: "hint" });
    const button = h("button", { type: "button", onclick: use }, t("useEnhanced"));
    const summary = h("summary", {}, `${t("madeOf")} `, this.start);
    this.element = h("details", { class: "made-of" }, summary, this.text, h("div", { class: "row" }, this.model, button));
  }

  update({ enhanced_prompt: text, enhance_model: model }) {
    this.element.hidden = !text;
    say(this.start, [...(text ?? "")].slice(0, SHOWN).join(""));
    say(this.text, text ?? "");
    say(this.model, model ? t("writtenBy", { model }) : "");
  }
}
