/** The API tab: the call that makes the form's request, to be copied. */

import { BASE } from "../core/api.js";
import { call, chosen, LANGUAGES, TRANSPORTS } from "./calls.js";
import { $, h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

const EXTENTS = ["minimal", "full"];
const COPIED_MS = 1500;

export class ApiTab {
  #choice = { transport: TRANSPORTS[0], extent: EXTENTS[0], programming: LANGUAGES[0] };

  /** `request()` gives the form's model, values and schema. */
  constructor(request) {
    this.request = request;
    $("api-choices").replaceChildren(
      this.#group("transport", TRANSPORTS),
      this.#group("extent", EXTENTS),
      this.#group("programming", LANGUAGES),
    );
    $("api-copy").addEventListener("click", () => this.#copy($("api-copy"), $("api-code").textContent));
    $("api-export-copy").addEventListener("click", () => this.#copy($("api-export-copy"), $("api-export").textContent));
    this.draw();
  }

  #group(what, names) {
    const choose = ({ target }) => {
      this.#choice[what] = target.value;
      this.draw();
    };
    const radios = names.map((name) => {
      const radio = h("input", { type: "radio", name: what, value: name, onchange: choose });
      radio.checked = name === this.#choice[what];
      return h("label", {}, radio, h("span", {}, t(name) ?? name));
    });
    return h("fieldset", { class: "choices" }, h("legend", {}, t(what)), radios);
  }

  draw() {
    const { model, values, schema } = this.request();
    const { transport, extent, programming } = this.#choice;
    const named = chosen(values, schema, extent === "full");
    say($("api-code"), call(transport, programming, BASE.slice(0, -1), model, named, schema));
  }

  /** Says where the key comes from that the calls send. */
  explainKey(isNeeded) {
    say($("api-key"), t(isNeeded ? "apiKeyNeeded" : "apiKeyAny"));
    say($("api-export"), `export OXEN_API_KEY=${isNeeded ? "…" : "any"}`);
  }

  async #copy(button, text) {
    await copy(text);
    button.textContent = t("copied");
    setTimeout(() => {
      button.textContent = t("copy");
    }, COPIED_MS);
  }
}

/** Puts a text into the clipboard. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // a page from another machine without TLS has no clipboard of its own
  const area = h("textarea", {}, text);
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
