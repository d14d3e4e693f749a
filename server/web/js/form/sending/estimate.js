/** What the server knows about the request in the form before it is sent: its time, its wait, whether it fits. */

import { request } from "../../core/api.js";
import { h } from "../../core/dom.js";
import { t, time } from "../../core/strings.js";

const PAUSE_MS = 600;
// a wait that is shorter is over before it is read
const WAIT_SECONDS = 2;

export class Estimate {
  #timer = null;
  #running = null;

  /** Writes into an element. `body()` is the request, null while it is not right; `videos()` how many; `use(size)` takes a size. */
  constructor(element, body, videos, use) {
    Object.assign(this, { element, body, videos, use });
  }

  /** Asks anew once nothing has changed for a moment. */
  ask() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), PAUSE_MS);
  }

  async #ask() {
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    const json = this.body();
    if (json === null) return this.element.replaceChildren();
    try {
      const known = await request("api/ai/estimate", { method: "POST", json, signal: running.signal });
      if (!running.signal.aborted) this.#draw(known);
    } catch (error) {
      if (running.signal.aborted) return;
      // that the server is away is told elsewhere, and an older estimate may be wrong
      this.element.replaceChildren(...(error.status === 400 ? [h("span", { class: "error" }, error.message)] : []));
    }
  }

  #draw({ seconds, queue_seconds: wait, fits, reason, suggestion }) {
    if (fits === false) return this.element.replaceChildren(...this.#tooLarge(reason, suggestion));
    const count = this.videos();
    const parts = [
      seconds === null ? t("estimate.none") : t("estimate.time", { time: time(seconds) }),
      seconds !== null && count > 1 && t("estimate.all", { time: time(seconds * count) }),
      wait > WAIT_SECONDS && t("estimate.wait", { time: time(wait) }),
      fits && t("estimate.fits"),
    ];
    this.element.replaceChildren(parts.filter(Boolean).join(" · "));
  }

  #tooLarge(reason, suggestion) {
    const size = suggestion && `${suggestion.width} × ${suggestion.height}`;
    const use = size && h("button", { type: "button", onclick: () => this.use(suggestion) }, t("estimate.use", { size }));
    return [h("span", { class: "error", title: reason }, t("estimate.large")), use].filter(Boolean);
  }
}
