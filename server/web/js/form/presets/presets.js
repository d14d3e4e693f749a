/** Settings under a name: saved in this browser for this server, and as files that others can take over. */

import { stored } from "../../core/api.js";
import { $, h, say } from "../../core/dom.js";
import { storage } from "../../core/storage.js";
import { t } from "../../core/strings.js";
import { wrongIn } from "./presetfile.js";
import { takeRecipes } from "./recipefile.js";

const NAME = stored("presets");
const MOST = 50;
const MOST_BYTES = 64 * 1024;

function load() {
  try {
    const kept = JSON.parse(storage.get(NAME) ?? "[]");
    return Array.isArray(kept) ? kept.filter((preset) => typeof preset?.name === "string" && preset.settings) : [];
  } catch {
    return [];
  }
}

export class Presets {
  /** `now()` is `{model, settings}` of the form; `apply(preset)` puts one into it; `models` are the server's, by id. */
  constructor(models, now, apply) {
    this.all = [];
    Object.assign(this, { models, now, apply });
    takeRecipes(models, apply);
    $("presets-open").addEventListener("click", () => {
      // another tab may have saved some
      this.all = load();
      this.#tell("");
      this.#draw();
      $("presets").showModal();
    });
    $("presets-close").addEventListener("click", () => $("presets").close());
    $("preset-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save($("preset-name").value.trim());
    });
    $("preset-import").addEventListener("click", () => $("preset-file").click());
    $("preset-file").addEventListener("change", () => $("preset-file").files[0] && this.#import($("preset-file").files[0]));
  }

  #save(name) {
    if (name === "") return this.#tell(t("preset.unnamed"));
    if (this.#put({ name, ...this.now() })) $("preset-name").value = "";
  }

  /** Keeps a preset, in the place of one of the same name. */
  #put(preset) {
    const at = this.all.findIndex(({ name }) => name === preset.name);
    if (at < 0 && this.all.length >= MOST) return this.#tell(t("preset.many", { most: MOST }));
    if (at < 0) this.all.push(preset);
    else this.all[at] = preset;
    this.#keep();
    this.#tell(t("preset.saved", { name: preset.name }), "hint");
    return true;
  }

  #keep() {
    storage.set(NAME, JSON.stringify(this.all));
    this.#draw();
  }

  #use(preset) {
    const sentences = wrongIn(preset, this.models);
    if (sentences.length) return this.#tell(sentences.join(" "));
    this.apply(preset);
    $("presets").close();
  }

  #export(preset) {
    const file = new Blob([JSON.stringify({ paddock_preset: 1, ...preset }, null, 2)], { type: "application/json" });
    const address = URL.createObjectURL(file);
    h("a", { href: address, download: `${preset.name.replaceAll(/[^\p{L}\p{N}]+/gu, "-")}.paddock.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  async #import(file) {
    $("preset-file").value = "";
    if (file.size > MOST_BYTES) return this.#tell(t("preset.large"));
    let preset;
    try {
      preset = JSON.parse(await file.text());
    } catch {
      return this.#tell(t("preset.noFile"));
    }
    const sentences = wrongIn(preset, this.models);
    if (sentences.length) return this.#tell(sentences.join(" "));
    const { name, model, settings } = preset;
    this.#put({ name: name.slice(0, 80), model, settings });
  }

  #draw() {
    const button = (name, about, onclick) => h("button", { type: "button", "aria-label": `${t(name)}: ${about}`, onclick }, t(name));
    const entry = (preset) => {
      const renamed = h("input", { type: "text", value: preset.name, maxlength: 80, "aria-label": t("preset.name") });
      renamed.addEventListener("change", () => {
        const name = renamed.value.trim();
        const isFree = name !== "" && !this.all.some((other) => other !== preset && other.name === name);
        if (isFree) preset.name = name;
        else this.#tell(t("preset.taken"));
        this.#keep();
      });
      const remove = () => {
        this.all = this.all.filter((other) => other !== preset);
        this.#keep();
        $("preset-name").focus();
      };
      const model = h("span", { class: "hint" }, this.models.get(preset.model)?.display_name ?? preset.model);
      const actions = [
        button("preset.apply", preset.name, () => this.#use(preset)),
        button("preset.export", preset.name, () => this.#export(preset)),
        button("remove", preset.name, remove),
      ];
      return h("li", {}, renamed, model, h("div", { class: "row" }, actions));
    };
    $("preset-list").replaceChildren(...this.all.map(entry));
    $("preset-none").hidden = this.all.length > 0;
  }

  #tell(sentence, kind = "error") {
    $("preset-error").className = kind;
    say($("preset-error"), sentence);
  }
}
