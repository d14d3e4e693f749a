/** The History tab: every generation of this key, filtered, and read on as one scrolls. */

import { $, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { Filters } from "./filters.js";
import { Chunks } from "./chunks.js";

const PAGE_SIZE = 60;
// how far below the window the next rows are asked for, in pixels
const AHEAD = "1500px";

export class Library {
  #asked = 0;
  #cursor = null;
  #isReading = false;
  #unseen = new Set();

  /** `page` as tile.js has it; `tell(sentence)` shows what went wrong. */
  constructor(generations, page) {
    Object.assign(this, { generations, page });
    this.chunks = new Chunks($("history-list"), page);
    this.filters = new Filters(() => this.open(), page.modelName);
    this.end = $("history-end");
    this.fresh = $("history-new");
    this.fresh.addEventListener("click", () => this.open());
    new IntersectionObserver((seen) => seen.at(-1).isIntersecting && this.#more(), { rootMargin: AHEAD }).observe(this.end);
  }

  /** The ids that are listed, in their order. */
  get order() {
    return this.chunks.ids;
  }

  /** Reads the first rows that the filters let through. */
  async open() {
    const asked = ++this.#asked;
    this.filters.refresh();
    const found = await this.generations.page({ ...this.filters.query, page_size: PAGE_SIZE });
    // the answer to an older question
    if (asked !== this.#asked) return;
    this.#unseen.clear();
    this.fresh.hidden = true;
    this.chunks.clear();
    this.#add(found);
    say($("history-count"), found.total_entries ? t("entries", { count: found.total_entries }) : "");
    $("history-empty").hidden = found.generations.length > 0;
    say($("history-empty"), t(this.filters.isSet ? "noneFound" : "noResults"));
    // what is in view at once is not told by the observer
    requestAnimationFrame(() => this.#fill());
  }

  /** News of a row. */
  update(row) {
    if (this.chunks.update(row) || row.enqueued_at < this.#opened) return;
    this.#unseen.add(row.generation_id);
    say(this.fresh, t("newEntries", { count: this.#unseen.size }));
    this.fresh.hidden = false;
  }

  /** A generation is gone. */
  drop(id) {
    this.#unseen.delete(id);
    this.fresh.hidden = this.#unseen.size === 0;
    this.chunks.drop(id);
  }

  mark() {
    this.chunks.mark();
  }

  #opened = Infinity;

  #add({ generations, next_cursor: cursor }) {
    if (this.chunks.ids.length === 0) this.#opened = generations[0]?.enqueued_at ?? Infinity;
    this.#cursor = cursor ?? null;
    this.chunks.add(generations.map((row) => this.generations.rows.get(row.generation_id) ?? row));
    this.end.hidden = this.#cursor === null;
  }

  #fill() {
    if (this.#cursor !== null && this.end.getBoundingClientRect().top < innerHeight * 2) this.#more();
  }

  async #more() {
    if (this.#isReading || this.#cursor === null || $("panel-history").hidden) return;
    this.#isReading = true;
    const asked = this.#asked;
    try {
      const found = await this.generations.page({ ...this.filters.query, page_size: PAGE_SIZE, cursor: this.#cursor });
      if (asked === this.#asked) this.#add(found);
    } catch (error) {
      this.page.tell(error.message);
      return;
    } finally {
      this.#isReading = false;
    }
    requestAnimationFrame(() => this.#fill());
  }
}

