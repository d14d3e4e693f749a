/** What can be done with a generation: one list for the stage, the tiles, their menus and the detail view. */

import { ownAddress } from "../core/api.js";
import { askTwice, h } from "../core/dom.js";
import { icon } from "../core/icons.js";
import { t } from "../core/strings.js";
import { isActive } from "./generations.js";
import { canShare, fileName } from "./share.js";

/**
 * The actions of a row: `{name, icon, label, run, href, isDangerous, isPressed}`.
 *
 * `page` does what is asked: `use(row)`, `again(row)`, `cancel(id)`, `remove(id)`, `share(row)`, `compare(id, isIn)`, `isCompared(id)`,
 * `continueFrom(row, seconds)`, `takesImage(model)`, `detail(id)`, `mark(id, change)`. `time()` is the time that the video is at, in seconds.
 */
export function actionsOf(row, page, time = null) {
  const id = row.generation_id;
  const hasVideo = Boolean(row.result_url);
  const moves = hasVideo && page.takesImage(row.model_name);
  const one = (name, sign, run, more = {}) => ({ name, icon: sign, label: t(name), run, ...more });
  return [
    isActive(row) && one("cancel", "cancel", () => page.cancel(id)),
    moves && time && one("useFrame", "frame", () => page.continueFrom(row, time())),
    moves && one("continue", "proceed", () => page.continueFrom(row)),
    hasVideo && one("download", "download", null, { href: ownAddress(row.result_url), file: fileName(row) }),
    hasVideo && canShare() && one("share", "share", () => page.share(row)),
    one("favourite", "star", () => page.mark(id, { favourite: !row.favourite }), { isPressed: Boolean(row.favourite) }),
    hasVideo && one("compare", "compare", () => page.compare(id, !page.isCompared(id)), { isPressed: page.isCompared(id) }),
    one("use", "use", () => page.use(row)),
    // what never began fails again
    !isActive(row) && !(row.status === "failed" && row.started_at === null) && one("again", "again", () => page.again(row)),
    one("details", "details", () => page.detail(id)),
    !isActive(row) && one("remove", "remove", () => page.remove(id), { isDangerous: true }),
  ].filter(Boolean);
}

/** The actions of a generation side by side. */
export class ActionBar {
  #offered = "";

  /** `isSmall` leaves their words to screen readers. */
  constructor(element, isSmall = false) {
    Object.assign(this, { element, isSmall });
  }

  /** Shows actions, and what `more()` gives; made anew only when others are wanted: one that has the focus keeps it. */
  show(actions, more = () => []) {
    const offered = JSON.stringify(actions.map(({ name, isPressed, href }) => [name, isPressed, href]));
    if (offered === this.#offered) return;
    this.#offered = offered;
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    this.element.replaceChildren(...actions.map((action) => control(action, this.isSmall)), ...more());
    if (focused) (this.element.querySelector(`[data-action=${focused}]`) ?? this.element.querySelector("button, a"))?.focus();
  }

  clear() {
    this.#offered = "";
    this.element.replaceChildren();
  }
}

/** The element of an action; `isSmall` leaves its words to screen readers. */
export function control(action, isSmall = false) {
  const { name, label, run, href, file, isDangerous, isPressed } = action;
  const words = h("span", {}, label);
  const content = isSmall ? [icon(action.icon)] : [icon(action.icon), words];
  const about = { "data-action": name, ...(isSmall && { "aria-label": label, title: label }) };
  const kind = isSmall ? "icon" : "";
  if (href) return h("a", { class: `button ${kind}`, href, download: file, ...about }, content);
  const pressed = isPressed === undefined ? {} : { "aria-pressed": String(isPressed) };
  const button = h("button", { type: "button", class: `${kind}${isDangerous ? " danger" : ""}`, ...about, ...pressed }, content);
  // its words are in it, or its name
  const say = (text) => (isSmall ? button.setAttribute("aria-label", text) : (words.textContent = text));
  button.addEventListener("click", isDangerous ? () => askTwice(button, label, t("reallyRemove"), say, run) : run);
  return button;
}
