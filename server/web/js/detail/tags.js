/** The tags of a generation: taken away and added. */

import { h, iconButton } from "../core/dom.js";
import { t } from "../core/strings.js";

const MOST_CHARACTERS = 40;

export class Tags {
  #tags = [];

  /** `change(tags)` is called with all tags when they change. */
  constructor(change) {
    this.change = change;
    this.list = h("ul", { class: "tags" });
    this.input = h("input", { maxlength: MOST_CHARACTERS, "aria-label": t("addTag"), placeholder: t("addTag"), list: "tags", autocomplete: "off" });
    this.input.addEventListener("keydown", (event) => {
      const tag = this.input.value.trim();
      if (event.key !== "Enter" || !tag) return;
      event.preventDefault();
      this.input.value = "";
      if (!this.#tags.includes(tag)) change([...this.#tags, tag]);
    });
    this.element = h("div", { class: "tagged" }, this.list, this.input);
  }

  show(tags) {
    if (tags.join("\n") === this.#tags.join("\n") && this.list.childElementCount === tags.length) return;
    this.#tags = tags;
    this.list.replaceChildren(
      ...tags.map((tag) => h("li", {}, tag, iconButton("close", t("removeTag", { tag }), () => this.change(this.#tags.filter((other) => other !== tag))))),
    );
  }
}
