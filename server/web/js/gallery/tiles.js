/** Tiles in an order, each kept while it is listed. */

import { Tile } from "./tile.js";

export class Tiles {
  #tiles = new Map();

  constructor(element, page) {
    this.element = element;
    this.page = page;
  }

  /** Shows these rows, in this order. */
  show(rows) {
    const wanted = new Set(rows.map((row) => row.generation_id));
    for (const id of [...this.#tiles.keys()]) if (!wanted.has(id)) this.drop(id);
    rows.forEach((row, place) => {
      this.update(row);
      if (!this.#tiles.has(row.generation_id)) this.#tiles.set(row.generation_id, new Tile(row, this.page));
      const { element } = this.#tiles.get(row.generation_id);
      // moving an element would stop its video
      if (this.element.children[place] !== element) this.element.insertBefore(element, this.element.children[place] ?? null);
    });
  }

  /** News of a row, if it is listed. */
  update(row) {
    this.#tiles.get(row.generation_id)?.update(row);
  }

  drop(id) {
    this.#tiles.get(id)?.close();
    this.#tiles.delete(id);
  }

  /** What is selected or on the stage has changed. */
  mark() {
    for (const tile of this.#tiles.values()) tile.mark();
  }
}
