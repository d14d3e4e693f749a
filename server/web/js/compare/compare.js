/** The Compare tab: two to four videos that play in step, and what differs in their settings. */

import { ownAddress } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { inputsOf } from "../form/inputs.js";
import { toText } from "../form/fields/loras.js";
import { settingsOf, title } from "../form/settings.js";
import { t } from "../core/strings.js";

const MOST = 4;
// a frame is 63 ms long at 16 a second: less is not seen, and correcting it would be
const DRIFT_SECONDS = 0.08;

export class Compare {
  ids = [];
  #videos = [];
  #schemaOf;

  constructor(generations, schemaOf) {
    this.generations = generations;
    this.#schemaOf = schemaOf;
    $("compare-play").addEventListener("click", () => this.#toggle());
    $("compare-position").addEventListener("input", ({ target }) => this.#seek(Number(target.value)));
    $("compare-only").addEventListener("change", () => this.#tabulate());
    const keepInStep = () => {
      this.#keepInStep();
      requestAnimationFrame(keepInStep);
    };
    requestAnimationFrame(keepInStep);
  }

  /** Puts a generation in or takes it out; returns whether it is in. */
  set(id, isIn) {
    if (!isIn) this.ids = this.ids.filter((other) => other !== id);
    else if (this.ids.length < MOST && !this.ids.includes(id)) this.ids = [...this.ids, id];
    this.draw();
    return this.ids.includes(id);
  }

  get rows() {
    return this.ids.map((id) => this.generations.rows.get(id)).filter((row) => row?.result_url);
  }

  draw() {
    const rows = this.rows;
    $("compare-empty").hidden = rows.length >= 2;
    $("compare-stage").hidden = rows.length < 2;
    const shown = new Map(this.#videos.map((video) => [video.dataset.id, video]));
    this.#videos = rows.map((row) => shown.get(row.generation_id) ?? this.#player(row));
    $("compare-videos").replaceChildren(
      ...this.#videos.map((video, n) =>
        h("figure", {}, video, h("figcaption", {}, h("b", {}, String.fromCharCode(65 + n)), " ", rows[n].prompt), ...inputsOf(rows[n])),
      ),
    );
    for (const video of this.#videos) video.pause();
    this.#seek(0);
    this.#tabulate();
  }

  #player(row) {
    const label = t("result", { prompt: row.prompt });
    const about = { "data-id": row.generation_id, "aria-label": label, playsinline: true, preload: "auto" };
    const video = h("video", { src: ownAddress(row.result_url), ...about });
    video.muted = true;
    return video;
  }

  /** Seconds of the longest. */
  get #duration() {
    return Math.max(0, ...this.#videos.map((video) => video.duration || 0));
  }

  get #leader() {
    return this.#videos.find((video) => video.duration === this.#duration);
  }

  #toggle() {
    if (this.#leader?.paused) {
      for (const video of this.#videos) if (!video.ended) video.play().catch(() => {});
    } else {
      for (const video of this.#videos) video.pause();
    }
  }

  #seek(fraction) {
    for (const video of this.#videos) {
      video.currentTime = Math.min(fraction * this.#duration, video.duration || 0);
    }
  }

  #keepInStep() {
    const leader = this.#leader;
    if (leader === undefined || $("compare-stage").hidden) return;
    say($("compare-play"), t(leader.paused ? "play" : "pause"));
    if (leader.paused) return;
    if (leader.currentTime >= this.#duration - 0.02) return this.#again();
    $("compare-position").value = leader.currentTime / this.#duration;
    for (const video of this.#videos) {
      if (!video.ended && Math.abs(video.currentTime - leader.currentTime) > DRIFT_SECONDS) {
        video.currentTime = leader.currentTime;
      }
    }
  }

  #again() {
    this.#seek(0);
    for (const video of this.#videos) video.play().catch(() => {});
  }

  #tabulate() {
    const rows = this.rows;
    const settings = rows.map((row) => {
      const { loras, ...others } = settingsOf(row, this.#schemaOf(row));
      const { model_name: model, enhanced_prompt } = row;
      return { model, ...others, ...(loras && { loras: toText(loras) }), ...(enhanced_prompt && { enhanced_prompt }) };
    });
    const names = [...new Set(settings.flatMap((one) => Object.keys(one)))];
    const differs = (name) => new Set(settings.map((one) => one[name])).size > 1;
    const shown = $("compare-only").checked ? names.filter(differs) : names;
    say($("compare-same"), names.some(differs) || rows.length < 2 ? "" : t("same"));
    const properties = (name) => this.#schemaOf(rows[0]).properties[name] ?? {};
    const heading = (name) => (name === "model" ? t("model") : title(name, properties(name)));
    $("compare-table").replaceChildren(
      h("tr", {}, h("th", { scope: "col" }, t("parameter")), rows.map((_, n) => h("th", { scope: "col" }, String.fromCharCode(65 + n)))),
      ...shown.map((name) =>
        h(
          "tr",
          { class: differs(name) ? "differs" : "" },
          h("th", { scope: "row" }, heading(name)),
          settings.map((one) => h("td", {}, String(one[name] ?? "—"))),
        ),
      ),
    );
  }
}
