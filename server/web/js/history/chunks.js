/**
 * A long list of tiles in chunks. Only those near the window are drawn: thousands of videos and pictures at once
 * would be slow. The others keep their height.
 */

import { h } from "../core/dom.js";
import { language, t } from "../core/strings.js";
import { Tile } from "../gallery/tile.js";

const NEAR = "1200px";

const days = new Intl.DateTimeFormat(language, { dateStyle: "full" });
const dayOf = (row) => new Date(row.enqueued_at * 1000).toDateString();

function heading(row) {
  const day = dayOf(row);
  if (day === new Date().toDateString()) return t("today");
  if (day === new Date(Date.now() - 86_400_000).toDateString()) return t("yesterday");
  return days.format(new Date(row.enqueued_at * 1000));
}

class Chunk {
  tiles = new Map();

  /** `before` is the row that stands above the first one, null for none. */
  constructor(rows, before, page) {
    Object.assign(this, { rows, before, page });
    this.element = h("div", { class: "chunk tiles captions" });
  }

  draw() {
    if (this.tiles.size) return;
    let last = this.before;
    const parts = [];
    for (const row of this.rows) {
      if (last === null || dayOf(last) !== dayOf(row)) parts.push(h("h3", { class: "day" }, heading(row)));
      last = row;
      const tile = new Tile(row, this.page);
      this.tiles.set(row.generation_id, tile);
      parts.push(tile.element);
    }
    this.element.replaceChildren(...parts);
    this.element.style.height = "";
  }

  rest() {
    // what holds the focus stays, and what asks something
    if (this.tiles.size === 0 || this.element.contains(document.activeElement)) return;
    this.element.style.height = `${this.element.offsetHeight}px`;
    for (const tile of this.tiles.values()) tile.close();
    this.tiles.clear();
    this.element.replaceChildren();
  }

  update(row) {
    const place = this.rows.findIndex(({ generation_id }) => generation_id === row.generation_id);
    if (place >= 0) this.rows[place] = row;
    this.tiles.get(row.generation_id)?.update(row);
  }

  drop(id) {
    this.rows = this.rows.filter(({ generation_id }) => generation_id !== id);
    this.tiles.get(id)?.close();
    this.tiles.delete(id);
    if (this.tiles.size || this.rows.length === 0) this.element.style.height = "";
    for (const day of this.element.querySelectorAll(".day")) {
      if (!day.nextElementSibling || day.nextElementSibling.matches(".day")) day.remove();
    }
  }
}

export class Chunks {
  ids = [];
  #chunks = [];
  #of = new Map();
  #last = null;

  constructor(element, page) {
    Object.assign(this, { element, page });
    const draw = (seen) => {
      for (const { target, isIntersecting } of seen) {
        const chunk = this.#chunks.find((each) => each.element === target);
        if (isIntersecting) chunk?.draw();
        else chunk?.rest();
      }
    };
    this.observer = new IntersectionObserver(draw, { rootMargin: NEAR });
  }

  /** Adds rows at the end, but those that are listed already. */
  add(rows) {
    const others = rows.filter(({ generation_id }) => !this.#of.has(generation_id));
    if (others.length === 0) return;
    const chunk = new Chunk(others, this.#last, this.page);
    this.#last = others.at(-1);
    this.#chunks.push(chunk);
    for (const { generation_id } of others) this.#of.set(generation_id, chunk);
    this.ids.push(...others.map(({ generation_id }) => generation_id));
    chunk.draw();
    this.element.append(chunk.element);
    this.observer.observe(chunk.element);
  }

  clear() {
    this.observer.disconnect();
    for (const chunk of this.#chunks) for (const tile of chunk.tiles.values()) tile.close();
    this.element.replaceChildren();
    this.#chunks = [];
    this.#of.clear();
    this.ids = [];
    this.#last = null;
  }

  /** News of a row; returns whether it is listed. */
  update(row) {
    const chunk = this.#of.get(row.generation_id);
    chunk?.update(row);
    return chunk !== undefined;
  }

  drop(id) {
    this.#of.get(id)?.drop(id);
    this.#of.delete(id);
    this.ids = this.ids.filter((other) => other !== id);
  }

  mark() {
    for (const chunk of this.#chunks) for (const tile of chunk.tiles.values()) tile.mark();
  }
}
