/** The sound that a model makes for the video, for models that have one: instead of a file of one's own. */

import { $ } from "../core/dom.js";

export class MadeSound {
  #own;

  /** `own` is the field of the file. */
  constructor(own) {
    this.#own = own;
    $("generate-audio").addEventListener("change", () => this.draw());
    own.addEventListener("change", () => {
      if (own.value) $("generate-audio").checked = false;
      this.draw();
    });
  }

  /** Shows whether the model has one. */
  offer(isOffered) {
    $("sound-field").hidden = !isOffered;
    this.draw();
  }

  /** Shows the words for it while it is chosen. */
  draw() {
    const isChosen = $("generate-audio").checked;
    $("audio-prompt-field").hidden = !isChosen;
    $("audio-prompt").disabled = !isChosen;
    // a video has one sound
    if (isChosen && this.#own.value) this.#own.set(null);
  }
}
