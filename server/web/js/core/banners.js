/** Sentences above everything. Those that a person may do without can be closed. */

import { h, iconButton } from "./dom.js";
import { visit } from "./storage.js";
import { t } from "./strings.js";

const CLOSABLE = ["demo", "trouble", "told", "compare"];
const CLOSED = (name) => `paddock-closed-${name}`;

export class Banners {
  constructor(element) {
    this.element = element;
  }

  /** Shows a sentence under a name in place of the one before; an empty one takes that away. */
  show(name, sentence, button = null) {
    const old = this.element.querySelector(`.banner[data-name=${name}]`);
    if (!sentence) {
      visit.remove(CLOSED(name));
      return old?.remove();
    }
    if (visit.get(CLOSED(name)) === sentence || old?.firstChild.textContent === sentence) return;
    old?.remove();
    const banner = h("div", { class: "banner", "data-name": name }, h("p", {}, sentence), button);
    const close = () => {
      visit.set(CLOSED(name), sentence);
      banner.remove();
    };
    if (CLOSABLE.includes(name)) banner.append(iconButton("close", t("close"), close));
    this.element.append(banner);
  }
}
