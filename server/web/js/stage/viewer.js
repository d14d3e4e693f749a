/** What is seen of one generation: its preview while it runs, its video, or why there is none and what else can be done. */

import { h } from "../core/dom.js";
import { settingsOf } from "../form/settings.js";
import { isActive } from "../gallery/generations.js";
import { Preview } from "../gallery/preview.js";
import { Player } from "./player.js";
import { waysOut } from "./waysout.js";

export class Viewer {
  #page;
  #preview;
  // the generation of which the reason is shown
  #told = null;

  /** `page` as stage.js has it. */
  constructor(page) {
    this.#page = page;
    this.player = new Player((id) => page.refresh(id));
    this.#preview = new Preview((image) => this.player.replace(image));
    this.element = this.player.element;
  }

  /** Shows a row of a model with this schema; its video begins at once if it `plays`. */
  show(row, schema, plays) {
    const { width, height } = settingsOf(row, schema);
    this.player.screen.style.setProperty("--ratio", String((width || 16) / (height || 9)));
    if (row.result_url) {
      this.#forget();
      this.player.show(row, this.#page.fpsOf(row), plays);
    } else if (isActive(row)) {
      this.#told = null;
      if (row.status === "processing" && row.preview_url) this.#preview.look(row.preview_url);
    } else if (row.error_message) this.#tell(row);
    else this.clear();
  }

  /** Nothing is seen any more. */
  clear() {
    this.#forget();
    this.player.replace();
  }

  #forget() {
    this.#preview.forget();
    this.#told = null;
  }

  /** Tells why it failed, or why its video is gone. */
  #tell(row) {
    // its buttons keep the focus when its row is read again
    if (this.#told === row.generation_id) return;
    this.#forget();
    this.#told = row.generation_id;
    const ways = h("div", { class: "row ways" }, ...waysOut(row, this.#page));
    this.player.replace(h("div", { class: "reason" }, h("p", { class: "error" }, row.error_message), ways));
  }
}
