/** A generation as a card: how it is doing while it runs, then its video, and what can be done with it. */

import { ownAddress, picture } from "../core/api.js";
import { h, say } from "../core/dom.js";
import { isActive } from "./generations.js";
import { inputsOf } from "../form/inputs.js";
import { MadeOf } from "./madeof.js";
import { awaitsPrompt, facts, settingsOf } from "../form/settings.js";
import { storage } from "../core/storage.js";
import { t, time } from "../core/strings.js";

const REALLY_MS = 4000;
const SOUND = "paddock-sound";

const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Only one is heard at a time. */
function quieten(heard) {
  if (heard.muted) return;
  for (const video of document.querySelectorAll(".card .stage video")) if (video !== heard && !video.muted) video.pause();
}

/** How a generation is doing, in words. */
function status(row) {
  if (awaitsPrompt(row)) return t("status.awaitsPrompt");
  if (row.status === "queued") {
    if (row.queue_position === null || row.queue_position === undefined) return t("status.queued");
    return row.queue_position === 1 ? t("status.next") : t("status.position", { place: row.queue_position });
  }
  if (row.status === "processing") {
    const parts = [t(`stage.${row.stage}`, row) ?? t("status.processing")];
    if (row.progress > 0) parts.push(t("percent", { percent: Math.round(row.progress * 100) }));
    if (row.eta_seconds !== null && row.eta_seconds !== undefined) parts.push(t("left", { time: time(row.eta_seconds) }));
    return parts.join(" · ");
  }
  if (row.status === "succeeded") return t("status.took", { time: time(row.completed_at - row.started_at) });
  return t(`status.${row.status}`);
}

/**
 * `page` is what the card asks for when a button is pressed: `schemaOf(row)`, `use(row, changes)`, `again(row)`, `cancel(id)`,
 * `remove(id)`, `compare(id, on)`, `isCompared(id)`, `refresh(id)`, `takesImage(model)`, `continueFrom(row, seconds)`.
 */
export class Card {
  #page;
  #video = null;
  #preview = null;
  #previewOf = null;
  #wasActive = false;

  constructor(row, page) {
    this.#page = page;
    this.id = row.generation_id;
    this.stage = h("div", { class: "stage" });
    this.status = h("p", { class: "status" });
    this.bar = h("progress", { max: 1, "aria-label": t("progress") });
    this.error = h("p", { class: "error" });
    this.warnings = h("p", { class: "warning" });
    this.prompt = h("p", { class: "prompt", dir: "auto" });
    this.madeOf = new MadeOf(() => this.#page.use(this.row, { prompt: this.row.enhanced_prompt, enhance_prompt: false, inspiration: false }));
    this.inputs = h("div", { class: "inputs" });
    this.facts = h("ul", { class: "facts" });
    this.actions = h("div", { class: "actions" });
    const words = h("div", { class: "words" }, this.status, this.bar, this.error, this.warnings, this.prompt, this.madeOf.element, this.inputs, this.facts, this.actions);
    this.element = h("article", { class: "card", "data-id": this.id }, this.stage, words);
    this.update(row);
  }

  update(row) {
    // one of many that are drawn because another changed
    if (row === this.row) return;
    const schema = this.#page.schemaOf(row);
    if (schema === undefined) return;
    this.row = row;
    const { width, height } = settingsOf(row, schema);
    this.stage.style.aspectRatio = `${width || 16} / ${height || 9}`;
    this.element.dataset.status = row.status;
    say(this.status, status(row));
    this.bar.hidden = !isActive(row);
    if (row.status === "processing") this.bar.value = row.progress;
    else this.bar.removeAttribute("value");
    say(this.error, row.error_message ?? "");
    this.error.hidden = !row.error_message;
    say(this.warnings, (row.warnings ?? []).join(" "));
    this.warnings.hidden = !row.warnings?.length;
    say(this.prompt, row.prompt ?? "");
    this.madeOf.update(row);
    this.element.setAttribute("aria-label", row.prompt ?? "");
    this.inputs.append(...inputsOf(row, this.inputs));
    const words = facts(row, schema);
    if (words.join() !== [...this.facts.children].map((item) => item.textContent).join()) {
      this.facts.replaceChildren(...words.map((fact) => h("li", {}, fact)));
    }
    this.#show(row);
    this.#offer(row);
    this.#wasActive ||= isActive(row);
  }

  /** Whether a comparison holds it has changed elsewhere. */
  mark() {
    const box = this.actions.querySelector("input");
    if (box) box.checked = this.#page.isCompared(this.id);
  }

  /** Lets go of what the browser holds for it. */
  close() {
    this.#forgetPreview();
    this.#video?.removeAttribute("src");
    for (const input of this.inputs.children) input.removeAttribute("src");
    this.element.remove();
  }

  #show(row) {
    if (row.result_url && this.#video === null) {
      this.#video = this.#player(row);
      this.stage.replaceChildren(this.#video);
      this.#forgetPreview();
    } else if (!row.result_url && this.#video !== null) {
      this.#video = null;
      this.stage.replaceChildren();
    } else if (row.status === "processing" && row.preview_url) {
      this.#look(row.preview_url);
    } else if (!isActive(row)) {
      this.#forgetPreview();
    }
  }

  #player(row) {
    // what was just made is shown at once, unless its watcher would rather have nothing move
    const plays = this.#wasActive && !isStill();
    const about = { "aria-label": t("result", { prompt: row.prompt }), preload: "metadata", loop: true, playsinline: true };
    const video = h("video", { src: ownAddress(row.result_url), controls: true, ...about });
    // as its watcher left the last one that can be heard
    video.muted = !row.has_audio || storage.get(SOUND) !== "on";
    if (row.has_audio) video.addEventListener("play", () => quieten(video));
    if (row.has_audio) video.addEventListener("volumechange", () => storage.set(SOUND, video.muted ? "off" : "on"));
    video.autoplay = plays;
    // its link may have expired while the page lay open: a row read anew has a fresh one
    video.addEventListener("error", () => this.#page.refresh(this.id), { once: true });
    return video;
  }

  async #look(url) {
    if (url === this.#previewOf) return;
    this.#previewOf = url;
    const source = await picture(ownAddress(url)).catch(() => null);
    if (source === null || this.#previewOf !== url) return;
    const image = h("img", { src: source, alt: t("preview") });
    await image.decode().catch(() => {});
    if (this.#previewOf !== url) return URL.revokeObjectURL(source);
    const before = this.#preview;
    this.#preview = image;
    this.stage.replaceChildren(image);
    if (before) URL.revokeObjectURL(before.src);
  }

  #forgetPreview() {
    if (this.#preview) URL.revokeObjectURL(this.#preview.src);
    this.#preview?.remove();
    this.#preview = this.#previewOf = null;
  }

  /** The buttons, made anew only when others are wanted: one that has the focus keeps it. */
  #offer(row) {
    const kind = isActive(row) ? "active" : row.result_url ? "video" : "over";
    if (this.actions.dataset.kind === kind) return;
    const hadFocus = this.actions.contains(document.activeElement);
    this.actions.dataset.kind = kind;
    const button = (name, action) => h("button", { type: "button", onclick: action }, t(name));
    const use = button("use", () => this.#page.use(this.row));
    if (kind === "active") {
      this.actions.replaceChildren(use, button("cancel", () => this.#page.cancel(this.id)));
    } else {
      const again = button("again", () => this.#page.again(this.row));
      this.actions.replaceChildren(...(kind === "video" ? this.#ofVideo(row) : []), use, again, this.#removal());
    }
    if (hadFocus) this.actions.querySelector("button, a").focus();
  }

  #ofVideo(row) {
    const onchange = ({ target }) => {
      target.checked = this.#page.compare(this.id, target.checked);
    };
    const box = h("input", { type: "checkbox", onchange });
    box.checked = this.#page.isCompared(this.id);
    const download = `paddock-${this.id.slice(0, 8)}.mp4`;
    const goOn = h("button", { type: "button", onclick: () => this.#page.continueFrom(this.row) }, t("continue"));
    const ofFrame = () => this.#page.continueFrom(this.row, this.#video.currentTime);
    const useFrame = h("button", { type: "button", onclick: ofFrame }, t("useFrame"));
    return [
      h("label", { class: "check" }, box, t("compare")),
      h("a", { class: "button", href: ownAddress(row.result_url), download }, t("download")),
      ...(this.#page.takesImage(row.model_name) ? [goOn, useFrame] : []),
    ];
  }

  #removal() {
    const button = h("button", { type: "button", class: "danger" }, t("remove"));
    button.addEventListener("click", () => {
      if (button.dataset.asked) return this.#page.remove(this.id);
      button.dataset.asked = "yes";
      button.textContent = t("reallyRemove");
      setTimeout(() => {
        delete button.dataset.asked;
        button.textContent = t("remove");
      }, REALLY_MS);
    });
    return button;
  }
}
