/** The preview of a generation that runs: the newest one, fetched with the key, each in place of the one before. */

import { ownAddress, picture } from "../core/api.js";
import { h } from "../core/dom.js";
import { t } from "../core/strings.js";

export class Preview {
  #image = null;
  #of = null;

  /** `show(image)` is called with each new image. */
  constructor(show) {
    this.show = show;
  }

  /** Fetches the preview at an address, unless it is shown already; null for none. */
  async look(url) {
    if (url === this.#of) return;
    if (!url) return this.forget();
    this.#of = url;
    const source = await picture(ownAddress(url)).catch(() => null);
    if (source === null) return;
    if (this.#of !== url) return URL.revokeObjectURL(source);
    const image = h("img", { src: source, alt: t("preview") });
    await image.decode().catch(() => {});
    if (this.#of !== url) return URL.revokeObjectURL(source);
    const before = this.#image;
    this.#image = image;
    this.show(image);
    if (before) URL.revokeObjectURL(before.src);
  }

  /** Lets go of what is shown. */
  forget() {
    if (this.#image) URL.revokeObjectURL(this.#image.src);
    this.#image?.remove();
    this.#image = this.#of = null;
  }
}
