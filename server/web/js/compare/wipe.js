/** The divider between two videos that lie on each other: dragged, or moved with the arrows as a slider. */

import { $ } from "../core/dom.js";
import { t } from "../core/strings.js";

const STEP = 1;
const PAGE = 10;

export class Wipe {
  isOn = false;
  #kept;
  #letters = ["A", "B"];

  /** `kept` remembers where the divider is, in percent from the left. */
  constructor(kept) {
    this.#kept = kept;
    const glass = $("compare-glass");
    const divider = $("compare-divider");
    const follow = ({ clientX }) => {
      const { left, width } = glass.getBoundingClientRect();
      this.move(((clientX - left) / width) * 100);
    };
    glass.addEventListener("pointerdown", (event) => {
      if (!this.isOn || event.button !== 0) return;
      event.preventDefault();
      glass.setPointerCapture(event.pointerId);
      divider.focus({ preventScroll: true });
      follow(event);
    });
    glass.addEventListener("pointermove", (event) => glass.hasPointerCapture(event.pointerId) && follow(event));
    divider.addEventListener("keydown", (event) => {
      const place = this.#placeBy(event);
      if (place === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      this.move(place);
    });
  }

  #placeBy({ key, shiftKey }) {
    const now = this.#kept.divider;
    const step = shiftKey ? PAGE : STEP;
    return {
      ArrowLeft: now - step,
      ArrowDown: now - step,
      ArrowRight: now + step,
      ArrowUp: now + step,
      PageDown: now - PAGE,
      PageUp: now + PAGE,
      Home: 0,
      End: 100,
    }[key];
  }

  move(percent) {
    this.#kept.divider = Math.min(100, Math.max(0, Math.round(percent * 10) / 10));
    this.draw(this.#letters);
  }

  draw(letters) {
    this.#letters = letters;
    const { divider: percent } = this.#kept;
    $("compare-videos").style.setProperty("--divider", `${percent}%`);
    const divider = $("compare-divider");
    divider.setAttribute("aria-valuenow", String(Math.round(percent)));
    divider.setAttribute("aria-valuetext", t("compare.dividerText", { percent: Math.round(percent), left: letters[0], right: letters[1] }));
  }
}
