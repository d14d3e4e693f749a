/** One of the compared videos: its picture, its letter, what it has that others have not, and its buttons. */

import { ownAddress } from "../core/api.js";
import { h, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { inputsOf } from "../form/inputs.js";
import { clamped } from "./clamp.js";

/** The letter by which the video in a place is called. */
export const letter = (place) => String.fromCharCode(65 + place);

export class Figure {
  #letters = [h("b", { class: "letter", "aria-hidden": "true" }), h("b", { class: "letter" })];
  #differing = h("span", { class: "differing" });
  #isFresh = false;

  /** `page` is asked for what its buttons do: `remove(id)`, `hear(id)`, `refresh(id)`. */
  constructor(row, page) {
    this.id = row.generation_id;
    this.row = row;
    const about = { "data-id": this.id, "aria-label": t("result", { prompt: row.prompt }), playsinline: true, preload: "auto" };
    this.video = h("video", { src: ownAddress(row.result_url), ...about });
    this.video.muted = true;
    // its link may have expired while the page lay open: a row read anew has a fresh one
    this.video.addEventListener("error", () => this.#isFresh || page.refresh(this.id));
    this.hear = h("button", { type: "button", class: "icon sound", hidden: !row.has_audio, onclick: () => page.hear(this.id) });
    this.remove = h("button", { type: "button", class: "icon cross", onclick: () => page.remove(this.id) });
    const head = h("div", { class: "head" }, this.#letters[1], this.#differing, this.hear, this.remove);
    this.frame = h("div", { class: "frame" }, this.video, this.#letters[0]);
    const inputs = h("div", { class: "inputs" }, inputsOf(row));
    this.caption = h("figcaption", {}, head, clamped(row.prompt ?? ""), inputs);
    this.element = h("figure", {}, this.frame, this.caption);
  }

  /** Takes a fresh link where the one it had did not work. */
  update(row) {
    this.row = row;
    if (!this.video.error || this.#isFresh || !row.result_url) return;
    this.#isFresh = true;
    this.video.src = ownAddress(row.result_url);
  }

  /** Its place among all, what differs of its settings in a few words, and whether it is heard. */
  draw(place, differing, isHeard) {
    for (const element of this.#letters) say(element, letter(place));
    say(this.#differing, differing);
    this.#differing.title = differing;
    this.video.muted = !isHeard;
    this.hear.setAttribute("aria-pressed", String(isHeard));
    const named = [
      [this.hear, t("compare.sound", { letter: letter(place) })],
      [this.remove, t("compare.remove", { letter: letter(place) })],
    ];
    for (const [button, name] of named) {
      button.setAttribute("aria-label", name);
      button.title = name;
    }
  }

  close() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.element.remove();
  }
}
