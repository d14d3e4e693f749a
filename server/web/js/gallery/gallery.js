/** The gallery beside the stage: the queue in its order, and the newest generations. */

import { $, say } from "../core/dom.js";
import { isActive, RECENT } from "./generations.js";
import { Tiles } from "./tiles.js";

/** What waits and runs, in the order in which it is made. */
export function queueOf(rows) {
  const rank = (row) => (row.status === "processing" ? 0 : (row.queue_position ?? Infinity));
  return rows.filter(isActive).sort((a, b) => rank(a) - rank(b));
}

export class Gallery {
  #isDrawn = true;

  constructor(generations, page) {
    this.generations = generations;
    this.queue = new Tiles($("queue-list"), page);
    this.results = new Tiles($("results"), page);
  }

  /** The ids as they are listed. */
  order = [];

  /** Draws it once, whatever comes until then. */
  draw() {
    if (!this.#isDrawn) return;
    this.#isDrawn = false;
    requestAnimationFrame(() => {
      this.#isDrawn = true;
      this.#draw();
    });
  }

  mark() {
    this.queue.mark();
    this.results.mark();
  }

  #draw() {
    // those that came last first, among those of one second
    const all = [...this.generations.rows.values()].reverse();
    const active = queueOf(all);
    const over = all.filter((row) => !isActive(row)).sort((a, b) => b.enqueued_at - a.enqueued_at).slice(0, RECENT);
    this.queue.show(active);
    this.results.show(over);
    this.order = [...active, ...over].map((row) => row.generation_id);
    $("queue").hidden = active.length === 0;
    say($("queue-count"), String(active.length));
    $("recent").hidden = over.length === 0;
    $("no-results").hidden = this.order.length > 0;
  }
}
