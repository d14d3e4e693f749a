/** The Workbench: puts the parts together. */

import { ApiTab } from "./calls/apitab.js";
import { Compare } from "./compare/compare.js";
import { key, request, whenKeyIsNeeded } from "./core/api.js";
import { $, h } from "./core/dom.js";
import { askForKey } from "./core/key.js";
import { language, switchLanguage, t } from "./core/strings.js";
import { tabs } from "./core/tabs.js";
import { Composer } from "./form/composer.js";
import { CardList } from "./gallery/cardlist.js";
import { Generations, isActive } from "./gallery/generations.js";
import { History } from "./history/history.js";
import { Machine } from "./machine/machine.js";

const SHOWN = 12;

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = t(element.dataset.hint);
  for (const element of document.querySelectorAll("[data-alt]")) element.alt = t(element.dataset.alt);
}

/** Shows a sentence above everything, or takes it away. */
function banner(name, sentence, button = null) {
  const old = document.querySelector(`.banner[data-name=${name}]`);
  if (!sentence) return old?.remove();
  if (old?.firstChild.textContent === sentence) return;
  old?.remove();
  $("banners").append(h("div", { class: "banner", "data-name": name }, h("p", {}, sentence), button));
}

class Workbench {
  async start() {
    translate();
    whenKeyIsNeeded(askForKey);
    const { data: models } = await request("api/ai/models");
    this.models = new Map(models.map((model) => [model.id, model]));
    this.generations = new Generations();
    this.composer = new Composer(this.models, this.generations);
    this.page = this.#page();
    this.feed = new CardList($("results"), this.page);
    this.compare = new Compare(this.generations, this.page.schemaOf);
    this.history = new History(this.generations, this.page);
    this.api = new ApiTab(() => ({ model: this.composer.model.id, values: this.composer.values, schema: this.composer.schema }));
    this.api.explainKey(key.get() !== "");
    this.composer.addEventListener("change", () => this.api.draw());
    this.open = tabs($("tabs"), (name) => this.#opened(name));
    this.machine = new Machine((id) => this.models.get(id)?.display_name ?? id);
    this.#listen();
    this.generations.start();
    document.body.dataset.ready = "yes";
  }

  #listen() {
    this.generations.addEventListener("row", ({ detail: row }) => {
      this.history.list.update(row);
      this.#drawFeed();
    });
    this.generations.addEventListener("removed", ({ detail: id }) => {
      this.compare.set(id, false);
      this.#drawFeed();
      if (!$("panel-history").hidden) this.history.open();
    });
    this.generations.addEventListener("connection", ({ detail: isOpen }) => banner("offline", isOpen ? "" : t("offline")));
    this.machine.addEventListener("ready", ({ detail: ready }) => {
      banner("trouble", "");
      const small = h("button", { type: "button", onclick: () => this.composer.fillSmall() }, t("demoSize"));
      banner("demo", ready.demo ? t("demo") : "", small);
    });
    this.machine.addEventListener("trouble", ({ detail: sentence }) => banner("trouble", sentence));
    $("language").addEventListener("click", switchLanguage);
    $("key-forget").addEventListener("click", () => {
      key.forget();
      location.reload();
    });
    $("key-forget").hidden = key.get() === "";
  }

  /** What runs, what waits in its order, then the newest of what is over. */
  #drawFeed() {
    const all = [...this.generations.rows.values()].reverse();
    const rank = (row) => (row.status === "processing" ? 0 : (row.queue_position ?? Infinity));
    const active = all.filter(isActive).sort((a, b) => rank(a) - rank(b));
    const over = all.filter((row) => !isActive(row)).sort((a, b) => b.enqueued_at - a.enqueued_at);
    const rows = [...active, ...over.slice(0, SHOWN)];
    this.feed.show(rows);
    $("no-results").hidden = rows.length > 0;
  }

  #opened(name) {
    if (name === "history") this.history.open().catch((error) => banner("trouble", error.message));
  }

  /** What cards ask for. */
  #page() {
    const told = (action) => (...given) => action(...given).catch((error) => banner("trouble", error.message));
    return {
      schemaOf: (row) => this.models.get(row.answered_by ?? row.model_name)?.request_schema,
      use: told(async (row, changes) => {
        this.open("create");
        await this.composer.use(row, changes);
      }),
      again: told(async (row) => {
        this.open("create");
        await this.composer.again(row);
      }),
      takesImage: (id) => this.composer.takesImage(id),
      continueFrom: told(async (row, seconds) => {
        this.open("create");
        await this.composer.continueFrom(row, seconds);
      }),
      cancel: told((id) => this.generations.cancel(id)),
      remove: told((id) => this.generations.remove(id)),
      refresh: told((id) => this.generations.ask(id)),
      isCompared: (id) => this.compare.ids.includes(id),
      compare: (id, isIn) => {
        const isNow = this.compare.set(id, isIn);
        banner("compare", isIn && !isNow ? t("compareFull") : "");
        for (const list of [this.feed, this.history.list]) list.mark();
        return isNow;
      },
    };
  }
}

new Workbench().start();
