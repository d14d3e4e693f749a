/** Cards in an order, each kept while it is listed: a video that plays is not begun anew by news of another. */

import { Card } from "./cards.js";

export class CardList {
  #cards = new Map();

  constructor(element, page) {
    this.element = element;
    this.page = page;
  }

  /** Shows these rows, in this order. */
  show(rows) {
    const wanted = new Set(rows.map((row) => row.generation_id));
    for (const id of this.#cards.keys()) if (!wanted.has(id)) this.drop(id);
    rows.forEach((row, place) => {
      this.update(row);
      if (!this.#cards.has(row.generation_id)) this.#cards.set(row.generation_id, new Card(row, this.page));
      const { element } = this.#cards.get(row.generation_id);
      // moving an element would stop its video
      if (this.element.children[place] !== element) this.element.insertBefore(element, this.element.children[place] ?? null);
    });
  }

  /** News of a row, if it is listed. */
  update(row) {
    this.#cards.get(row.generation_id)?.update(row);
  }

  drop(id) {
    this.#cards.get(id)?.close();
    this.#cards.delete(id);
  }

  /** What is compared has changed. */
  mark() {
    for (const card of this.#cards.values()) card.mark();
  }
}
