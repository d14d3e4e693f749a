/** A long text shown by its first lines, with a button that shows the rest. */

import { h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

const observer = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const button = target.nextElementSibling;
    // what is open has nothing to show that one could measure
    if (button?.getAttribute("aria-expanded") !== "false") continue;
    button.hidden = target.scrollHeight <= target.clientHeight + 1;
    // a hidden button has no part in the text of what holds it
    say(button, button.hidden ? "" : t("compare.more"));
  }
});

/** An element with a text; `about` are attributes of the text's own element. */
export function clamped(text, about = {}) {
  const shown = h("p", { class: "clamp", dir: "auto", title: text, ...about }, text);
  const button = h("button", { type: "button", class: "link", "aria-expanded": "false", hidden: true });
  button.addEventListener("click", () => {
    const isOpen = shown.classList.toggle("open");
    button.setAttribute("aria-expanded", String(isOpen));
    say(button, t(isOpen ? "compare.less" : "compare.more"));
  });
  observer.observe(shown);
  return h("div", { class: "clamped" }, shown, button);
}
