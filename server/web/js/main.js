/** The Workbench: puts the parts together. */

import { ApiTab } from "./calls/apitab.js";
import { Compare } from "./compare/compare.js";
import { key, ownAddress, request, whenKeyChanges } from "./core/api.js";
import { Banners } from "./core/banners.js";
import { $, h } from "./core/dom.js";
import { keepKey } from "./core/key.js";
import { switchLanguage, t, translate } from "./core/strings.js";
import { tabs } from "./core/tabs.js";
import { Told } from "./core/told.js";
import { Detail, linked } from "./detail/detail.js";
import { Composer } from "./form/composer.js";
import { Gallery, queueOf } from "./gallery/gallery.js";
import { Generations } from "./gallery/generations.js";
import { Selection } from "./gallery/selection.js";
import { share } from "./gallery/share.js";
import { Library } from "./history/library.js";
import { Machine } from "./machine/machine.js";
import { Stage } from "./stage/stage.js";

const COMPARED = 4;
const NARROW = matchMedia("(max-width: 899px)");

class Workbench {
  async start() {
    translate(document);
    keepKey();
    this.banners = new Banners($("banners"));
    const { data: models } = await request("api/ai/models");
    this.models = new Map(models.map((model) => [model.id, model]));
    const link = linked();
    this.generations = new Generations();
    this.composer = new Composer(this.models, this.generations);
    this.page = this.#page();
    this.selection = this.page.selection = new Selection(this.page);
    this.stage = new Stage($("stage"), this.page);
    this.gallery = new Gallery(this.generations, { ...this.page, open: (row) => this.#pick(row), isCurrent: (id) => id === this.stage.id });
    this.compare = new Compare(this.generations, this.page.schemaOf, this.page.fpsOf);
    this.library = new Library(this.generations, this.page);
    this.detail = new Detail(this.page);
    this.told = new Told($("notify"));
    this.api = new ApiTab(() => ({ model: this.composer.model.id, values: this.composer.values, schema: this.composer.schema }));
    this.api.explainKey(key.get() !== "");
    this.composer.addEventListener("change", () => this.api.draw());
    this.open = tabs($("tabs"), (name) => this.#opened(name));
    this.machine = new Machine((id) => this.page.modelName(id));
    this.#listen();
    this.generations.start();
    if (link) this.page.detail(link);
    document.body.dataset.ready = "yes";
  }

  #listen() {
    const { generations } = this;
    generations.addEventListener("row", ({ detail: row }) => this.#heard(row));
    generations.addEventListener("removed", ({ detail: id }) => this.#removed(id));
    generations.addEventListener("over", ({ detail: row }) => this.told.over(row, ({ generation_id: id }) => this.page.detail(id)));
    // of many that are sent at once the first one, which is also made first
    this.composer.addEventListener("sending", () => (this.isFirst = true));
    generations.addEventListener("asked", ({ detail: [id] }) => {
      if (this.isFirst) this.#pick(generations.rows.get(id), true);
      this.isFirst = false;
    });
    generations.addEventListener("loaded", () => {
      this.isLoaded = true;
      if (this.stage.id === null) this.#pickNewest();
    });
    generations.addEventListener("connection", ({ detail: isOpen }) => this.#connected(isOpen));
    for (const each of [this.selection, this.compare]) each.addEventListener("change", () => this.#mark());
    this.machine.addEventListener("ready", ({ detail: ready }) => {
      this.banners.show("trouble", "");
      this.banners.show("demo", ready.demo ? t("demo") : "");
    });
    this.machine.addEventListener("trouble", ({ detail: sentence }) => this.banners.show("trouble", sentence));
    $("language").addEventListener("click", switchLanguage);
    this.#place();
    NARROW.addEventListener("change", () => this.#place());
    $("to-stage").addEventListener("click", () => $("stage").scrollIntoView({ block: "start" }));
    $("all-results").addEventListener("click", () => this.open("history"));
    whenKeyChanges(() => this.#keyChanged());
  }

  /** The menu of models is of the header where that has room for it. */
  #place() {
    const menu = $("model").parentElement;
    if (NARROW.matches) $("main").prepend(menu);
    else $("machine-button").before(menu);
  }

  /** Another key has other generations. */
  #keyChanged() {
    for (const id of this.compare.ids) this.compare.set(id, false);
    this.selection.clear();
    this.detail.dialog.close();
    this.stage.put(null);
    this.generations.rows.clear();
    this.gallery.draw();
    this.told.progress([]);
    this.api.explainKey(key.get() !== "");
    if (!$("panel-history").hidden) this.#opened("history");
  }

  #heard(row) {
    this.library.update(row);
    this.detail.update(row);
    if (row.generation_id === this.stage.id) this.stage.update(row);
    else if (this.stage.id === null && this.isLoaded) this.#pickNewest();
    this.gallery.draw();
    this.told.progress(queueOf([...this.generations.rows.values()]));
  }

  #removed(id) {
    this.compare.set(id, false);
    if (this.selection.has(id)) this.selection.set(id, false);
    this.library.drop(id);
    this.detail.removed(id);
    if (id === this.stage.id) {
      this.stage.put(null);
      this.#pickNewest();
    }
    this.gallery.draw();
  }

  /** What can be done is told everywhere at once: nothing while the server cannot be reached. */
  #connected(isOpen) {
    this.banners.show("offline", isOpen ? "" : t("offline"));
    this.composer.connected(isOpen);
    this.machine.connected(isOpen);
  }

  /** Puts a generation on the stage. */
  #pick(row, isAsked = false) {
    this.stage.put(row);
    this.gallery.mark();
    // on a phone it is below the form
    if (isAsked && $("stage").getBoundingClientRect().top > innerHeight / 2) $("stage").scrollIntoView({ block: "start" });
    else if (!isAsked && $("stage").getBoundingClientRect().bottom < 100) $("stage").scrollIntoView({ block: "start" });
  }

  /** What runs, or else the newest. */
  #pickNewest() {
    const all = [...this.generations.rows.values()];
    const newest = all.reduce((best, row) => (best && best.enqueued_at > row.enqueued_at ? best : row), null);
    this.stage.put(queueOf(all)[0] ?? newest);
    this.gallery.mark();
  }

  #mark() {
    this.gallery.mark();
    this.library.mark();
    this.stage.mark();
  }

  #opened(name) {
    this.compare.opened(name === "compare");
    if (name === "history") this.library.open().catch((error) => this.page.tell(error.message));
  }

  /** What the parts ask for. */
  #page() {
    const { generations, composer } = this;
    const tell = (sentence) => this.banners.show("told", sentence);
    const told = (action) => (...given) => {
      tell("");
      return action(...given).catch((error) => tell(error.message));
    };
    const create = (action) => told(async (...given) => {
      this.detail.dialog.close();
      this.open("create");
      await action(...given);
    });
    const answering = (row) => this.models.get(row.answered_by ?? row.model_name);
    return {
      tell,
      generations,
      schemaOf: (row) => answering(row)?.request_schema,
      fpsOf: (row) => answering(row)?.fps ?? 16,
      modelName: (id) => this.models.get(id)?.display_name ?? id,
      takesImage: (id) => composer.takesImage(id),
      use: create((row, changes) => composer.use(row, changes)),
      again: create((row) => composer.again(row)),
      continueFrom: create((row, seconds) => composer.continueFrom(row, seconds)),
      cancel: told((id) => generations.cancel(id)),
      remove: told((id) => generations.remove(id)),
      refresh: told((id) => generations.refresh(id)),
      share: told(share),
      mark: told((id, change) => generations.mark(id, change)),
      open: (row) => this.page.detail(row.generation_id),
      detail: told((id) => this.detail.open(id, () => this.#order)),
      between: (a, b) => this.#between(a, b),
      isCompared: (id) => this.compare.ids.includes(id),
      compare: (id, isIn) => this.#compareOne(id, isIn),
      compareAll: async (ids) => {
        for (const id of this.compare.ids) if (!ids.includes(id)) this.compare.set(id, false);
        for (const id of ids.slice(0, COMPARED)) this.compare.set(id, true);
        this.selection.clear();
        this.open("compare");
      },
      downloadAll: told(async (ids) => h("a", { href: ownAddress(await generations.archive(ids)), download: "" }).click()),
      favouriteAll: told(async (ids) => {
        const isAll = ids.every((id) => generations.rows.get(id)?.favourite);
        await generations.markAll(ids, { favourite: !isAll });
      }),
      tagAll: told((ids, tag) => generations.markAll(ids, { add_tags: [tag] })),
      removeAll: told(async (ids) => {
        const left = await generations.removeAll(ids);
        if (left.length) tell(t("notRemoved", { count: left.length }));
      }),
    };
  }

  #compareOne(id, isIn) {
    const isNow = this.compare.set(id, isIn);
    this.banners.show("compare", isIn && !isNow ? t("compareFull") : "");
    return isNow;
  }

  get #order() {
    return $("panel-history").hidden ? this.gallery.order : this.library.order;
  }

  #between(a, b) {
    const order = this.#order;
    const [from, to] = [order.indexOf(a), order.indexOf(b)].sort((x, y) => x - y);
    return from < 0 ? [b] : order.slice(from, to + 1);
  }
}

new Workbench().start();
