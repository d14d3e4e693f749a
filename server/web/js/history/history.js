/** The History tab: every generation of this key, searched and paged. */

import { CardList } from "../gallery/cardlist.js";
import { $, say } from "../core/dom.js";
import { t } from "../core/strings.js";

const PAGE_SIZE = 12;
const TYPING_MS = 250;

export class History {
  #number = 1;
  #typing = 0;
  #asked = 0;

  constructor(generations, page) {
    this.generations = generations;
    this.list = new CardList($("history-list"), page);
    $("history-search").addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.open(1), TYPING_MS);
    });
    $("history-status").addEventListener("change", () => this.open(1));
    $("history-previous").addEventListener("click", () => this.open(this.#number - 1));
    $("history-next").addEventListener("click", () => this.open(this.#number + 1));
  }

  /** Shows a page, from 1; by default the one that is shown, anew. */
  async open(number = this.#number) {
    const query = { page: number, page_size: PAGE_SIZE };
    const [search, status] = [$("history-search").value.trim(), $("history-status").value];
    if (search) query.search = search;
    if (status) query.status = status;
    const asked = ++this.#asked;
    const found = await this.generations.page(query);
    // the answer to an older question
    if (asked !== this.#asked) return;
    if (found.total_pages > 0 && number > found.total_pages) return this.open(found.total_pages);
    this.#number = number;
    this.list.show(found.generations);
    const pages = Math.max(1, found.total_pages);
    say($("history-page"), found.total_entries ? t("page", { page: number, pages, total: found.total_entries }) : t("noneFound"));
    $("history-previous").disabled = number <= 1;
    $("history-next").disabled = number >= pages;
  }
}
