/** Prompts to begin with, shown while there is none of one's own. */

import { $, h } from "../core/dom.js";
import { language, t } from "../core/strings.js";

// the demo's weights know shapes and landscapes only, and their words in both languages
const DEMO = {
  en: [
    "a big red circle moving right on a blue background",
    "a small yellow ring moving up on a black background",
    "a duck on a lake at sunset",
    "an ox by a lake with mountains at night",
  ],
  zh: ["蓝色背景上，一个大大的红色圆形向右移动", "黑色背景上一个黄色圆环向上移动", "日落时湖上有一只鸭子", "夜晚，湖边有一头牛，远处是山"],
};
const GENERAL = {
  en: [
    "A red fox runs through fresh snow at sunrise, low tracking shot, soft golden light.",
    "Steam rises from a cup of tea on a wooden table by a rainy window, close-up.",
    "A lighthouse on a cliff in a storm, waves breaking on the rocks, aerial view.",
    "A paper boat drifts down a small stream in a forest, shallow depth of field.",
  ],
  zh: [
    "日出时，一只赤狐在新雪中奔跑，低机位跟拍，柔和的金色光线。",
    "雨天窗边的木桌上，一杯茶冒着热气，特写。",
    "暴风雨中悬崖上的灯塔，海浪拍打礁石，航拍视角。",
    "一只纸船沿着林间小溪漂流，浅景深。",
  ],
};
const SHOWN_WORDS = 6;

const start = (text) => (text.includes(" ") ? `${text.split(" ").slice(0, SHOWN_WORDS).join(" ")}…` : `${text.slice(0, 12)}…`);

export class Examples {
  /** Fills the prompt of a form. */
  constructor(form) {
    this.form = form;
    this.element = h("div", { class: "examples", role: "group", "aria-label": t("examples") });
    form.addEventListener("change", () => this.#show());
  }

  /** Offers what suits the model, below the prompt of a form that was just drawn. */
  draw(model) {
    const prompts = (model.weights === "demo" ? DEMO : GENERAL)[language];
    const use = (prompt) => {
      this.form.fill({ prompt });
      $("field-prompt").focus();
    };
    const chips = prompts.map((prompt) => h("button", { type: "button", title: prompt, onclick: () => use(prompt) }, start(prompt)));
    this.element.replaceChildren(h("span", { class: "hint" }, t("examples")), ...chips);
    $("field-prompt").after(this.element);
    this.#show();
  }

  /** Shows them while the prompt is empty or the model's own. */
  #show() {
    const field = this.form.field("prompt");
    const written = field?.input.value.trim() ?? "";
    this.element.hidden = written !== "" && written !== field.property.default;
  }
}
