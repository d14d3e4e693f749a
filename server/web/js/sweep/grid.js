/** The grid of a sweep: its videos in rows and columns that are named by their values. It sends what it shows. */

import { $, h, isStill, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { refusal } from "../form/sending/sender.js";
import { GridCell } from "./cell.js";
import { save } from "./picture.js";
import { forget, grids, keep } from "./store.js";

const isSent = (cell) => typeof cell === "string";

export class Grids {
  #grid = null;
  #cells = [];
  /** The grid whose requests are being sent, null while none are. */
  #sending = null;

  constructor(generations) {
    this.generations = generations;
    generations.addEventListener("row", ({ detail: row }) => this.#heard(row));
    generations.addEventListener("removed", ({ detail: id }) => this.#at(id)?.tell(t("grid.removed")));
    $("grid-close").addEventListener("click", () => $("grid").close());
    $("grid").addEventListener("close", () => this.#closed());
    $("grid-play").addEventListener("click", () => this.#play($("grid-play").dataset.state !== "playing"));
    $("grid-save").addEventListener("click", () => save(this.#grid, this.#cells));
    $("grid-rest").addEventListener("click", () => this.#send().catch((error) => say($("grid-error"), error.message)));
    $("grid-forget").addEventListener("click", () => {
      forget(this.#grid.id);
      $("grid").close();
    });
    this.#list();
  }

  /** Shows the grid of a plan, and sends its requests in order. Throws an error with a sentence if one is refused. */
  async begin({ rows, columns, bodies }, title) {
    const id = `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
    this.open({ id, title, made: Date.now(), rows, columns, cells: bodies });
    keep(this.#grid);
    this.#list();
    await this.#send();
  }

  open(kept) {
    // what is being sent knows more than what was kept
    const grid = (this.#grid = kept.id === this.#sending?.id ? this.#sending : kept);
    const { rows, columns, cells } = grid;
    const across = columns?.labels ?? [null];
    const named = (line, label) => `${line.title}: ${label}`;
    this.#cells = cells.map((_, n) => {
      const [row, column] = [rows.labels[Math.floor(n / across.length)], across[n % across.length]];
      return new GridCell([named(rows, row), columns && named(columns, column)].filter(Boolean).join(", "));
    });
    const corner = h("td", { class: "corner" }, columns ? `${rows.title} ↓ ${columns.title} →` : "");
    const head = columns && h("thead", {}, h("tr", {}, corner, across.map((label) => h("th", { scope: "col" }, named(columns, label)))));
    const line = (label, n) => h("tr", {}, h("th", { scope: "row" }, named(rows, label)), this.#cells.slice(n * across.length, (n + 1) * across.length).map(({ element }) => element));
    // one line of values is read from left to right
    const single = () => [
      h("thead", {}, h("tr", {}, rows.labels.map((label) => h("th", { scope: "col" }, named(rows, label))))),
      h("tbody", {}, h("tr", {}, this.#cells.map(({ element }) => element))),
    ];
    $("grid-table").replaceChildren(...(columns ? [head, h("tbody", {}, rows.labels.map(line))] : single()));
    say($("grid-title"), grid.title);
    say($("grid-error"), "");
    this.#refresh();
    if (!$("grid").open) $("grid").showModal();
    this.#play(!isStill());
  }

  /** Sends what was not sent yet. */
  async #send() {
    if (this.#sending) return;
    const grid = (this.#sending = this.#grid);
    const isShown = () => this.#grid === grid;
    say($("grid-error"), "");
    try {
      for (const [n, cell] of grid.cells.entries()) {
        if (isSent(cell)) continue;
        [grid.cells[n]] = await this.generations.create(cell);
        keep(grid);
        if (isShown()) this.#refresh();
      }
    } catch (error) {
      const sentence = t("sent.some", { sent: grid.cells.filter(isSent).length, total: grid.cells.length, reason: refusal(error) });
      if (isShown()) say($("grid-error"), sentence);
      throw new Error(sentence);
    } finally {
      this.#sending = null;
      if (isShown()) this.#refresh();
    }
  }

  #refresh() {
    for (const [n, cell] of this.#grid.cells.entries()) {
      const row = isSent(cell) && this.generations.rows.get(cell);
      if (row) this.#cells[n].update(row);
      else if (!isSent(cell)) this.#cells[n].tell(t(this.#sending === this.#grid ? "generating" : "grid.unsent"));
      else this.generations.ask(cell).catch((error) => this.#cells[n]?.tell(error.message));
    }
    $("grid-rest").hidden = this.#sending !== null || this.#grid.cells.every(isSent);
  }

  #heard(row) {
    const cell = this.#at(row.generation_id);
    if (!cell) return;
    const had = cell.video;
    cell.update(row);
    // all begin anew, so that they stay in step
    if (!had && cell.video && $("grid-play").dataset.state === "playing") this.#play(true);
  }

  #at(id) {
    return this.#grid ? this.#cells[this.#grid.cells.indexOf(id)] : undefined;
  }

  /** Plays all that are there from their beginning, or stops them. */
  #play(isPlaying) {
    $("grid-play").dataset.state = isPlaying ? "playing" : "paused";
    say($("grid-play"), t(isPlaying ? "pause" : "play"));
    for (const { video } of this.#cells) {
      if (!video) continue;
      if (!isPlaying) video.pause();
      else {
        video.currentTime = 0;
        video.play().catch(() => {});
      }
    }
  }

  #closed() {
    this.#play(false);
    this.#grid = null;
    this.#cells = [];
    $("grid-table").replaceChildren();
    this.#list();
  }

  /** Names the grids beside the results. */
  #list() {
    const all = grids();
    $("grids").hidden = all.length === 0;
    const entry = (grid) => h("li", {}, h("button", { type: "button", onclick: () => this.open(grid) }, `${grid.cells.length} × ${grid.title.slice(0, 40)}`));
    $("grids").replaceChildren(h("summary", {}, t("grids", { count: all.length })), h("ul", {}, all.map(entry)));
  }
}
