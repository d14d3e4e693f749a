/** What is ticked, and the bar with what can be done with all of it. */

import { $, askTwice, h, labelled, say } from "../core/dom.js";
import { t } from "../core/strings.js";

const MOST = 200;

/** Fires "change". */
export class Selection extends EventTarget {
  #ids = new Set();
  #last = null;

  /**
   * `page` does what is asked with a list of ids: `compareAll`, `downloadAll`, `favouriteAll`, `tagAll(ids, tag)`, `removeAll`; `between(a, b)`
   * gives the ids from one to the other as they are listed.
   */
  constructor(page) {
    super();
    this.page = page;
    const run = (action) => async () => {
      await action([...this.#ids]);
    };
    this.count = h("span", { class: "count", role: "status" });
    this.compare = labelled("compare", t("compare"), run((ids) => page.compareAll(ids)));
    this.tag = h("input", { id: "selection-tag", maxlength: 40, "aria-label": t("addTag"), placeholder: t("addTag"), list: "tags", autocomplete: "off" });
    this.tag.addEventListener("keydown", async (event) => {
      if (event.key !== "Enter" || !this.tag.value.trim()) return;
      await page.tagAll([...this.#ids], this.tag.value.trim());
      this.tag.value = "";
    });
    this.remove = labelled("remove", t("remove"), () => {
      const words = (text) => say(this.remove.querySelector("span"), text);
      askTwice(this.remove, t("remove"), t("reallyRemove"), words, run((ids) => page.removeAll(ids)));
    });
    this.remove.classList.add("danger");
    const clear = labelled("close", t("clearSelection"), () => this.clear());
    this.element = h("div", { class: "selection", role: "region", "aria-label": t("selection") }, this.count, this.compare,
      labelled("download", t("download"), run((ids) => page.downloadAll(ids))),
      labelled("star", t("favourite"), run((ids) => page.favouriteAll(ids))), this.tag, this.remove, clear);
    $("selection").replaceChildren(this.element);
    this.#draw();
  }

  has(id) {
    return this.#ids.has(id);
  }

  get ids() {
    return [...this.#ids];
  }

  /** Ticks a generation or not; with `isRange` all from the last one that was ticked. */
  set(id, isIn, isRange = false) {
    const ids = isRange && this.#last ? this.page.between(this.#last, id) : [id];
    for (const each of ids) {
      if (!isIn) this.#ids.delete(each);
      else if (this.#ids.size < MOST) this.#ids.add(each);
    }
    this.#last = id;
    this.#changed();
  }

  clear() {
    this.#ids.clear();
    this.#last = null;
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.dispatchEvent(new Event("change"));
  }

  #draw() {
    const { size } = this.#ids;
    this.element.hidden = size === 0;
    say(this.count, t(size >= MOST ? "selectedMost" : "selected", { count: size }));
    this.compare.disabled = size < 2 || size > 4;
    this.compare.title = this.compare.disabled ? t("compareFull") : "";
  }
}
