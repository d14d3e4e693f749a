/** How many of the steps are computed: a choice of few words, each with a line of help. */

import { $, h, say } from "../../core/dom.js";
import { t } from "../../core/strings.js";

const SPEEDS = ["", "exact", "balanced", "fast"];
const named = (speed) => speed || "unset";

/** Draws the choice; its element has a value and fires "change" as a field does. */
export function drawSpeed() {
  const element = $("step-cache");
  const help = h("span", { class: "hint", id: "speed-help", "aria-live": "polite" });
  const radio = (speed) =>
    h("label", {}, h("input", { type: "radio", name: "speed", value: speed, "aria-describedby": "speed-help" }), h("span", {}, t(`cache.${named(speed)}`)));
  element.append(h("div", { class: "segments" }, SPEEDS.map(radio)), help);
  const explain = () => say(help, t(`cacheHelp.${named(element.value)}`));
  Object.defineProperty(element, "value", {
    get: () => element.querySelector(":checked")?.value ?? "",
    set(value) {
      element.querySelector(`[value="${SPEEDS.includes(value) ? value : ""}"]`).checked = true;
      explain();
    },
  });
  element.addEventListener("change", explain);
  element.value = "";
}
