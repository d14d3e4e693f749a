/** The Compare tab: two to four videos that play in step, in the way that shows best what is different. */

import { copy } from "../core/copy.js";
import { $, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { isActive } from "../gallery/generations.js";
import { Choices } from "./choices.js";
import { Difference } from "./difference.js";
import { Figure, letter } from "./figures.js";
import { listenToKeys } from "./player/keyboard.js";
import { addressOf, idsOfAddress, MOST, recalled } from "./kept.js";
import { layOut } from "./layout.js";
import { notesOn } from "./notes.js";
import { Picker } from "./picker.js";
import { Playback } from "./player/playback.js";
import { Differences } from "./table.js";
import { Transport } from "./player/transport.js";
import { Wipe } from "./wipe.js";

const USUAL_FPS = 16;
const COPIED_MS = 1500;

/** Fires "change" when a video was put in or taken out. */
export class Compare extends EventTarget {
  ids = [];
  #figures = new Map();
  #kept = recalled();
  #playback = new Playback();
  #difference = new Difference(() => !this.#playback.isPlaying);
  // more are chosen, beside what is compared, or before anything is
  #isAdding = false;
  #isChoosing = false;
  #differences;
  #schemaOf;
  #fpsOf;

  /** `schemaOf(row)` and `fpsOf(row)` give the request schema of a row's model, and its frames a second. */
  constructor(generations, schemaOf, fpsOf = () => USUAL_FPS) {
    super();
    this.generations = generations;
    this.#schemaOf = schemaOf;
    this.#fpsOf = fpsOf;
    this.ids = this.#kept.ids = idsOfAddress(location.hash) ?? this.#kept.ids;
    this.transport = new Transport(this.#playback, this.#kept);
    this.choices = new Choices(this.#kept, () => this.#look());
    this.wipe = new Wipe(this.#kept);
    this.picker = new Picker((id) => this.#pick(id), schemaOf);
    listenToKeys(this.#playback, () => this.isOpen && !$("compare-stage").hidden);
    this.#listen();
    this.draw();
    this.#fetch();
  }

  #listen() {
    $("compare-only").checked = this.#kept.only;
    $("compare-only").addEventListener("change", ({ target }) => {
      this.#kept.only = target.checked;
      this.#differences.show(target.checked);
    });
    for (const id of ["compare-clear", "compare-forget"]) {
      $(id).addEventListener("click", () => {
        this.#replace([]);
        $("compare-empty").focus();
      });
    }
    $("compare-add").addEventListener("click", () => {
      this.#isAdding = !this.#isAdding;
      this.#offer();
      if (this.#isAdding) $("compare-picker").scrollIntoView({ block: "nearest" });
    });
    for (const id of ["compare-start", "compare-done"]) {
      $(id).addEventListener("click", () => {
        this.#isAdding = this.#isChoosing = false;
        this.#offer();
        this.#layOut();
        $("compare-play").focus();
      });
    }
    $("compare-link").addEventListener("click", () => this.#copyLink());
    $("compare-videos").addEventListener("click", ({ target }) => {
      if (this.#kept.mode !== "wipe" && target.closest(".frame, #compare-glass")) this.#playback.toggle();
    });
    // what stands still is measured
    this.#playback.addEventListener("change", () => this.#playback.isPlaying || this.#difference.draw());
    this.generations.addEventListener("row", ({ detail: row }) => this.#hear(row));
    this.generations.addEventListener("connection", ({ detail: isOpen }) => isOpen && this.#fetch());
    window.addEventListener("hashchange", () => {
      const ids = idsOfAddress(location.hash);
      if (ids) this.#replace(ids);
      this.#fetch();
    });
    const observer = new ResizeObserver(() => this.#layOut());
    for (const id of ["banners", "compare-stage", "compare-transport"]) observer.observe($(id));
    window.addEventListener("resize", () => this.#layOut());
  }

  /** Puts a generation in or takes it out; returns whether it is in. */
  set(id, isIn) {
    if (isIn === this.ids.includes(id)) return isIn;
    if (!isIn) this.#replace(this.ids.filter((other) => other !== id));
    else if (this.ids.length < MOST) this.#replace([...this.ids, id]);
    return this.ids.includes(id);
  }

  /** The tab was opened or left. */
  opened(isOpen) {
    this.isOpen = isOpen;
    this.#isAdding = this.#isChoosing = false;
    if (!isOpen) return this.#playback.pause();
    this.#address();
    this.#offer();
    this.#layOut();
  }

  get rows() {
    const known = this.ids.map((id) => this.generations.rows.get(id));
    return known.filter((row) => row?.result_url && this.#schemaOf(row));
  }

  get figures() {
    return this.rows.map((row) => this.#figures.get(row.generation_id)).filter(Boolean);
  }

  #replace(ids) {
    this.ids = this.#kept.ids = ids;
    this.#address();
    this.draw();
    this.dispatchEvent(new Event("change"));
  }

  #address() {
    if (this.isOpen) history.replaceState(null, "", addressOf(this.ids));
  }

  /** Reads the rows that are compared and not known: the page has only the newest. */
  #fetch() {
    for (const id of this.ids) if (!this.generations.rows.has(id)) this.generations.ask(id).catch(() => {});
  }

  #hear(row) {
    const id = row.generation_id;
    if (this.ids.includes(id)) {
      const isGone = !isActive(row) && !row.result_url;
      if (isGone) return this.set(id, false);
      const figure = this.#figures.get(id);
      if (figure) figure.update(row);
      else if (row.result_url) return this.draw();
    }
    if (row.result_url) this.#offer();
  }

  draw() {
    const rows = this.rows;
    const wanted = new Set(rows.map((row) => row.generation_id));
    for (const [id, figure] of this.#figures) {
      if (wanted.has(id)) continue;
      figure.close();
      this.#figures.delete(id);
    }
    const holder = $("compare-videos");
    const page = {
      remove: (id) => this.#remove(id),
      hear: (id) => this.#listenTo(id),
      refresh: (id) => this.generations.ask(id).catch(() => {}),
    };
    rows.forEach((row, place) => {
      const id = row.generation_id;
      if (!this.#figures.has(id)) this.#figures.set(id, this.#made(row, page));
      const { element } = this.#figures.get(id);
      if (holder.children[place] !== element) holder.insertBefore(element, holder.children[place]);
    });
    this.#differences = new Differences(rows, this.#schemaOf);
    this.#differences.show(this.#kept.only);
    const figures = this.figures;
    if (!figures.some(({ video }) => video === this.#playback.heard)) this.#playback.heard = null;
    this.#name();
    this.#playback.set(figures.map((figure) => this.#track(figure)));
    this.#offer();
    this.#look();
  }

  #made(row, page) {
    const figure = new Figure(row, page);
    for (const each of ["loadedmetadata", "error"]) figure.video.addEventListener(each, () => this.#look());
    return figure;
  }

  #name() {
    this.figures.forEach((figure, place) => figure.draw(place, this.#differences.summary(place), figure.video === this.#playback.heard));
  }

  #track({ video, row }) {
    return { video, fps: this.#fpsOf(row) ?? USUAL_FPS };
  }

  /** It goes on until the one who chooses says that it is done. */
  #pick(id) {
    this.#isChoosing = $("compare-stage").hidden;
    this.set(id, !this.ids.includes(id));
  }

  #remove(id) {
    const place = this.ids.indexOf(id);
    this.set(id, false);
    // whoever uses the keyboard goes on from there
    const next = this.figures[Math.min(place, this.figures.length - 1)];
    (this.figures.length >= 2 ? next.remove : $("compare-empty")).focus();
  }

  /** Lets one be heard, or none. */
  #listenTo(id) {
    const { video } = this.#figures.get(id);
    this.#playback.heard = this.#playback.heard === video ? null : video;
    this.#name();
  }

  /** Which two are compared where it is two. */
  get #pair() {
    const ids = this.figures.map(({ id }) => id);
    const [one, other] = this.#kept.pair;
    return one !== other && ids.includes(one) && ids.includes(other) ? [one, other] : ids.slice(0, 2);
  }

  /** Shows the videos in the mode. */
  #look() {
    const figures = this.figures;
    if (figures.length < 2) return this.#difference.show([]);
    const { mode, opacity, gain } = this.#kept;
    const pair = this.#pair;
    const isPair = mode !== "side";
    const holder = $("compare-videos");
    holder.dataset.mode = mode;
    holder.style.setProperty("--opacity", opacity / 100);
    for (const figure of figures) {
      figure.element.hidden = isPair && !pair.includes(figure.id);
      figure.element.classList.toggle("first", isPair && figure.id === pair[0]);
      figure.element.classList.toggle("second", isPair && figure.id === pair[1]);
    }
    this.choices.draw(figures.map(({ id }) => id), pair);
    const shown = isPair ? pair.map((id) => this.#figures.get(id)) : figures;
    const letters = shown.map((figure) => letter(figures.indexOf(figure)));
    this.wipe.isOn = mode === "wipe";
    this.wipe.draw(letters);
    $("compare-glass").hidden = mode === "side";
    $("compare-divider").hidden = mode !== "wipe";
    $("compare-canvas").hidden = $("compare-measure").hidden = mode !== "difference";
    $("compare-canvas").setAttribute("aria-label", t("compare.canvas", { one: letters[0], other: letters[1] }));
    this.#difference.show(mode === "difference" ? shown.map((figure) => this.#track(figure)) : [], gain);
    say($("compare-notes"), notesOn(shown.map((figure, n) => ({ ...this.#track(figure), letter: letters[n] }))).join(" "));
    this.#layOut();
  }

  #layOut() {
    const figures = this.figures;
    if (!this.isOpen || figures.length < 2) return;
    const isPair = this.#kept.mode !== "side";
    const shown = isPair ? this.#pair.map((id) => this.#figures.get(id)) : figures;
    // in the widest shape all have the full height
    const ratio = Math.max(...shown.map(({ video, row }) => (video.videoWidth ? video.videoWidth / video.videoHeight : (row.width ?? 16) / (row.height ?? 9))));
    layOut($("compare-videos"), $("compare-transport"), figures.length, ratio, isPair);
  }

  /** Shows what can be put in, where it is wanted. */
  #offer() {
    const isEnough = this.figures.length >= 2;
    const isEmpty = !isEnough || this.#isChoosing;
    const isFull = this.ids.length >= MOST;
    $("compare-empty").hidden = !isEmpty;
    $("compare-stage").hidden = isEmpty;
    $("compare-add").hidden = isFull && !this.#isAdding;
    $("compare-add").setAttribute("aria-expanded", String(this.#isAdding));
    $("compare-done").hidden = isEmpty;
    $("compare-picker").hidden = !isEmpty && !this.#isAdding;
    $("compare-forget").hidden = this.ids.length === 0;
    $("compare-start").hidden = !isEnough;
    say($("compare-start"), t("compare.start", { count: this.figures.length }));
    const chosen = isFull ? "compare.full" : "compare.ready";
    say($("compare-chosen"), t(["compareEmpty", "compare.one"][this.ids.length] ?? (isEnough ? chosen : "compare.waiting"), { count: this.ids.length }));
    if (!this.isOpen || $("compare-picker").hidden) return;
    const finished = [...this.generations.rows.values()].filter((row) => row.result_url && this.#schemaOf(row));
    this.picker.draw(finished, this.ids, isFull);
  }

  async #copyLink() {
    await copy(location.href);
    say($("compare-link"), t("copied"));
    setTimeout(() => say($("compare-link"), t("compare.link")), COPIED_MS);
  }
}
