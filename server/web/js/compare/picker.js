/** Finished videos that can be put into the comparison here, without looking for their cards. */

import { ownAddress } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { facts } from "../form/settings.js";

const SHOWN = 8;

export class Picker {
  #buttons = new Map();
  #choose;
  #schemaOf;

  /** `choose(id)` puts a video in or takes it out; `schemaOf(row)` gives the request schema of a row's model. */
  constructor(choose, schemaOf) {
    this.#choose = choose;
    this.#schemaOf = schemaOf;
  }

  /** Shows the newest of `rows`, and which of them are in `ids`, to which nothing can be added if `isFull`. */
  draw(rows, ids, isFull) {
    const newest = rows.toSorted((a, b) => b.enqueued_at - a.enqueued_at).slice(0, SHOWN);
    const wanted = new Set(newest.map((row) => row.generation_id));
    for (const [id, button] of this.#buttons) {
      if (wanted.has(id)) continue;
      button.remove();
      this.#buttons.delete(id);
    }
    const all = newest.map((row) => facts(row, this.#schemaOf(row)));
    const isCommon = (fact) => all.every((each) => each.includes(fact));
    newest.forEach((row, place) => {
      const id = row.generation_id;
      if (!this.#buttons.has(id)) this.#buttons.set(id, this.#button(row));
      const button = this.#buttons.get(id);
      button.setAttribute("aria-pressed", String(ids.includes(id)));
      button.disabled = isFull && !ids.includes(id);
      const own = all[place].filter((fact) => !isCommon(fact));
      say(button.querySelector(".about"), (own.length ? own : all[place]).join(" · "));
      button.title = `${row.prompt ?? ""}\n${all[place].join(" · ")}`;
      const holder = $("compare-recent");
      if (holder.children[place] !== button) holder.insertBefore(button, holder.children[place] ?? null);
    });
    $("compare-none").hidden = newest.length > 0;
  }

  #button(row) {
    const shown = { src: ownAddress(row.result_url), preload: "metadata", playsinline: true, tabindex: -1, "aria-hidden": "true" };
    const video = h("video", shown);
    video.muted = true;
    const onclick = () => this.#choose(row.generation_id);
    return h("button", { type: "button", class: "pick", onclick }, video, h("span", { dir: "auto" }, row.prompt), h("span", { class: "about" }));
  }
}
