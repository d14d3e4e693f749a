/** One video of a grid: its progress while it is made, then the video. */

import { ownAddress, picture } from "../core/api.js";
import { h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

function status(row) {
  if (row.status === "processing" && row.progress > 0) return t("percent", { percent: Math.round(row.progress * 100) });
  return row.status === "succeeded" ? "" : (row.error_message ?? t(`status.${row.status}`));
}

export class GridCell {
  #previewOf = null;
  video = null;

  /** `label` says which values it has. */
  constructor(label) {
    this.label = label;
    this.stage = h("div", { class: "cell-stage" });
    this.words = h("p", { class: "hint" });
    this.element = h("td", {}, this.stage, this.words);
  }

  /** Shows a sentence instead of a video. */
  tell(sentence) {
    this.stage.replaceChildren();
    say(this.words, sentence);
  }

  update(row) {
    Object.assign(this.element.dataset, { id: row.generation_id, status: row.status });
    say(this.words, status(row));
    if (row.status === "succeeded") this.#play(row);
    else if (row.status === "processing") this.#preview(row);
  }

  #play(row) {
    if (this.video) return;
    this.video = h("video", { src: ownAddress(row.result_url), loop: true, playsinline: true, preload: "auto", "aria-label": this.label });
    this.video.muted = true;
    this.stage.replaceChildren(this.video);
  }

  async #preview(row) {
    if (!row.preview_url || row.preview_url === this.#previewOf) return;
    this.#previewOf = row.preview_url;
    const address = await picture(ownAddress(row.preview_url));
    if (!address) return;
    // the video may have come meanwhile
    if (!this.video) this.stage.replaceChildren(h("img", { src: address, alt: t("preview"), onload: () => URL.revokeObjectURL(address) }));
    else URL.revokeObjectURL(address);
  }
}
