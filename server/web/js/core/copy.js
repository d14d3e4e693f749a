/** Copying text to the clipboard. */

import { h } from "./dom.js";
import { t } from "./strings.js";

const COPIED_MS = 1500;

/** Makes a button copy what `text()` gives, and say so. */
export function copyFrom(button, text) {
  button.addEventListener("click", async () => {
    await copy(text(), button.closest("dialog") ?? document.body);
    const isIcon = button.classList.contains("icon");
    const said = isIcon ? button.getAttribute("aria-label") : button.textContent;
    if (said === t("copied")) return;
    const say = (words) => (isIcon ? button.setAttribute("aria-label", words) : (button.textContent = words));
    say(t("copied"));
    button.classList.add("done");
    setTimeout(() => {
      say(said);
      button.classList.remove("done");
    }, COPIED_MS);
  });
}

/** Puts a text into the clipboard; `holder` is what can take the focus. */
export async function copy(text, holder = document.body) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // a page from another machine without TLS has no clipboard of its own; what is behind a dialog takes no focus
  const area = h("textarea", {}, text);
  holder.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
