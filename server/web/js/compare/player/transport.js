/** The controls that play the compared videos: always in view, for all of them at once. */

import { $, h, say } from "../../core/dom.js";
import { t } from "../../core/strings.js";

export const RATES = [0.25, 0.5, 1, 2];

export class Transport {
  #playback;
  #kept;

  /** `kept` remembers the speed and whether it loops. */
  constructor(playback, kept) {
    this.#playback = playback;
    this.#kept = kept;
    const position = $("compare-position");
    $("compare-play").addEventListener("click", () => playback.toggle());
    $("compare-back").addEventListener("click", () => playback.step(-1));
    $("compare-forward").addEventListener("click", () => playback.step(1));
    // what is dragged through stands still, and goes on afterwards if it did
    let wasPlaying = false;
    position.addEventListener("input", () => {
      wasPlaying ||= playback.isPlaying;
      playback.pause();
      playback.seek(Number(position.value));
    });
    position.addEventListener("change", () => {
      if (wasPlaying) playback.play();
      wasPlaying = false;
    });
    $("compare-rate").replaceChildren(...RATES.map((rate) => h("option", { value: rate }, `${rate}×`)));
    $("compare-rate").value = playback.rate = kept.rate;
    $("compare-rate").addEventListener("change", ({ target }) => {
      kept.rate = playback.rate = Number(target.value);
    });
    $("compare-loop").addEventListener("click", () => this.#loop(!playback.loops));
    this.#loop(kept.loops);
    for (const id of ["compare-back", "compare-forward", "compare-loop"]) $(id).title = $(id).getAttribute("aria-label");
    playback.addEventListener("change", () => this.#draw());
    this.#draw();
  }

  #loop(loops) {
    this.#kept.loops = this.#playback.loops = loops;
    $("compare-loop").setAttribute("aria-pressed", String(loops));
  }

  #draw() {
    const { isPlaying, frame, frames, fps } = this.#playback;
    const play = $("compare-play");
    const name = t(isPlaying ? "pause" : "play");
    if (play.title !== name) {
      play.title = name;
      play.setAttribute("aria-label", name);
      play.classList.toggle("pause", isPlaying);
      play.classList.toggle("play", !isPlaying);
    }
    const seconds = (frame / fps).toFixed(2);
    const position = $("compare-position");
    position.max = frames - 1;
    position.value = frame;
    position.setAttribute("aria-valuetext", t("compare.positionText", { frame: frame + 1, frames, seconds }));
    say($("compare-frame"), t("compare.frame", { frame: frame + 1, frames }));
    say($("compare-time"), t("compare.time", { seconds, all: (frames / fps).toFixed(2) }));
  }
}
