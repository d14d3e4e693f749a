/** A generation as a tile: its thumbnail, which plays while it is pointed at, how far it is, and its icons. */

import { ownAddress } from "../core/api.js";
import { h, iconButton, isStill, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { ActionBar, actionsOf } from "./actions.js";
import { isActive } from "./generations.js";
import { openMenu } from "./menu.js";
import { Preview } from "./preview.js";
import { badge } from "./status.js";

// what the icon row has room for, in this order; all are in the menu
const ROW = ["cancel", "download", "favourite", "again"];

/** `page` as actions.js has it, with `open(row)` and `selection`. */
export class Tile {
  #page;
  #preview = null;
  #video = null;
  #waiting = 0;

  constructor(row, page) {
    this.#page = page;
    this.id = row.generation_id;
    this.box = h("input", { type: "checkbox", "aria-label": t("select"), onclick: (event) => page.selection.set(this.id, this.box.checked, event.shiftKey) });
    this.picture = h("button", { type: "button", class: "picture", onclick: () => page.open(this.row) });
    this.badge = h("span", { class: "badge" });
    this.bar = h("progress", { max: 1, "aria-label": t("progress") });
    this.icons = h("div", { class: "icons" });
    this.actions = new ActionBar(this.icons, true);
    this.prompt = h("p", { class: "prompt", dir: "auto" });
    const tick = h("label", { class: "tick" }, this.box);
    this.element = h("article", { class: "tile", "data-id": this.id }, this.picture, tick, this.badge, this.bar, this.icons, this.prompt);
    // thousands of tiles have icons only once they are wanted
    for (const each of ["pointerenter", "focusin"]) this.element.addEventListener(each, () => this.#offer());
    this.element.addEventListener("pointerenter", () => this.#play());
    for (const each of ["pointerleave", "focusout"]) this.element.addEventListener(each, () => this.#rest());
    this.picture.addEventListener("focus", () => this.#play());
    this.element.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      this.#menu(event.clientX, event.clientY);
    });
    this.update(row);
    // a finger cannot point at it first
    if (matchMedia("(pointer: coarse)").matches) this.#offer();
  }

  update(row) {
    if (row === this.row) return;
    const before = this.row;
    this.row = row;
    Object.assign(this.element.dataset, { status: row.status });
    this.element.classList.toggle("favourite", Boolean(row.favourite));
    if (before?.prompt !== row.prompt) {
      say(this.prompt, row.prompt ?? "");
      this.prompt.title = row.prompt ?? "";
    }
    say(this.badge, badge(row));
    this.badge.hidden = this.badge.textContent === "";
    this.bar.hidden = row.status !== "processing";
    if (row.status === "processing") this.bar.value = row.progress;
    this.picture.setAttribute("aria-label", t(row.result_url ? "result" : "generation", { prompt: row.prompt ?? "", status: badge(row) }));
    this.#show(row, before);
    if (this.icons.childElementCount) this.#offer();
    this.mark();
  }

  /** What is selected or on the stage has changed. */
  mark() {
    this.box.checked = this.#page.selection.has(this.id);
    this.element.classList.toggle("selected", this.box.checked);
    const isCurrent = this.#page.isCurrent?.(this.id) ?? false;
    this.element.classList.toggle("current", isCurrent);
    if (isCurrent) this.picture.setAttribute("aria-current", "true");
    else this.picture.removeAttribute("aria-current");
  }

  /** Lets go of what the browser holds for it. */
  close() {
    this.#preview?.forget();
    this.#rest();
    this.element.remove();
  }

  #show(row, before) {
    if (row.status === "processing" && row.preview_url) {
      this.#preview ??= new Preview((image) => this.picture.replaceChildren(image));
      this.#preview.look(row.preview_url);
    } else if (before === undefined || before.thumbnail_url !== row.thumbnail_url || Boolean(before.result_url) !== Boolean(row.result_url)) {
      this.#preview?.forget();
      this.picture.replaceChildren(...[still(row)].filter(Boolean));
    }
  }

  #play() {
    if (!this.row.result_url || this.#video || isStill()) return;
    clearTimeout(this.#waiting);
    // who crosses a wall of tiles does not want all of their videos
    this.#waiting = setTimeout(() => {
      const about = { src: ownAddress(this.row.result_url), loop: true, playsinline: true, "aria-hidden": "true", tabindex: -1 };
      this.#video = h("video", about);
      this.#video.muted = true;
      this.#video.addEventListener("playing", () => this.#video && this.picture.append(this.#video), { once: true });
      this.#video.play().catch(() => {});
    }, 120);
  }

  #rest() {
    clearTimeout(this.#waiting);
    const video = this.#video;
    // taking it away takes the focus, which asks for the same again
    this.#video = null;
    video?.remove();
    video?.removeAttribute("src");
  }

  /** The icons, made anew only when others are wanted: a pointer may be over one. */
  #offer() {
    const focused = this.icons.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    const actions = actionsOf(this.row, this.#page);
    const shown = ROW.map((name) => actions.find((action) => action.name === name)).filter(Boolean);
    this.actions.show(shown, () => [this.#more()]);
  }

  #more() {
    const more = iconButton("more", t("more.actions"), () => {
      const { left, bottom } = more.getBoundingClientRect();
      this.#menu(left, bottom);
    });
    more.setAttribute("aria-haspopup", "menu");
    more.dataset.action = "more";
    return more;
  }

  #menu(x, y) {
    openMenu(actionsOf(this.row, this.#page), x, y);
  }
}

/** Whether a video has so nearly the shape of a tile that strips beside it would look like a fault. */
const isNear = ({ width, height }) => Math.abs(Math.log((width * 9) / (height * 16))) < 0.06;

/** The picture of a tile that does not play; null where there is none. */
function still(row) {
  if (row.thumbnail_url) return h("img", { class: isNear(row) ? "near" : "", src: ownAddress(row.thumbnail_url), alt: "", loading: "lazy", decoding: "async" });
  if (!row.result_url) return isActive(row) ? h("span", { class: "wait" }) : null;
  // made before there were thumbnails
  const video = h("video", { src: `${ownAddress(row.result_url)}#t=0.1`, preload: "metadata", playsinline: true, "aria-hidden": "true", tabindex: -1 });
  video.muted = true;
  return video;
}
