/** The Workbench: puts the parts together. */

import { inputAddress, key, ownAddress, request, stored, whenKeyIsNeeded } from "./core/api.js";
import { ApiTab } from "./calls/apitab.js";
import { CardList } from "./gallery/cardlist.js";
import { Compare } from "./compare/compare.js";
import { $, h, say } from "./core/dom.js";
import { Enhancer } from "./form/enhance.js";
import { Form } from "./form/form.js";
import { Generations, isActive } from "./gallery/generations.js";
import { History } from "./history/history.js";
import { AUDIO, fileAt, frameAt, InputField, IMAGES, sent, VIDEO } from "./form/inputs.js";
import { askForKey } from "./core/key.js";
import { MadeSound } from "./form/madesound.js";
import { Machine } from "./machine/machine.js";
import { offerLoras } from "./form/loras.js";
import { OWN_PARAMETERS, fillField, ofField, settingsOf } from "./form/settings.js";
import { visit } from "./core/storage.js";
import { language, switchLanguage, t } from "./core/strings.js";
import { tabs } from "./core/tabs.js";

const DRAFT = stored("draft");
const SHOWN = 12;
const SMALL = { width: 416, height: 240, num_frames: 33 };

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = t(element.dataset.hint);
  for (const element of document.querySelectorAll("[data-alt]")) element.alt = t(element.dataset.alt);
}

/** Shows a sentence above everything, or takes it away. */
function banner(name, sentence, button = null) {
  const old = document.querySelector(`.banner[data-name=${name}]`);
  if (!sentence) return old?.remove();
  if (old?.firstChild.textContent === sentence) return;
  old?.remove();
  $("banners").append(h("div", { class: "banner", "data-name": name }, h("p", {}, sentence), button));
}

class Workbench {
  async start() {
    translate();
    whenKeyIsNeeded(askForKey);
    const { data: models } = await request("api/ai/models");
    this.models = new Map(models.map((model) => [model.id, model]));
    this.generations = new Generations();
    this.page = this.#page();
    this.feed = new CardList($("results"), this.page);
    this.compare = new Compare(this.generations, this.page.schemaOf, this.page.fpsOf);
    this.history = new History(this.generations, this.page);
    [this.video, this.audio] = [new InputField(VIDEO, "video"), new InputField(AUDIO, "audio")];
    this.images = [new InputField(IMAGES[0], "image"), new InputField(IMAGES[1], "last-image")];
    this.inputs = [...this.images, this.video, this.audio];
    this.sound = new MadeSound(this.audio);
    this.continued = null;
    this.#drawForm(models);
    this.api = new ApiTab(() => ({ model: this.model.id, values: this.values, schema: this.form.schema }));
    this.api.explainKey(key.get() !== "");
    this.open = tabs($("tabs"), (name) => this.#opened(name));
    this.machine = new Machine((id) => this.models.get(id)?.display_name ?? id);
    this.#listen();
    this.generations.start();
    document.body.dataset.ready = "yes";
  }

  get model() {
    return this.models.get($("model").value);
  }

  #drawForm(models) {
    $("model").replaceChildren(...models.map((model) => h("option", { value: model.id }, model.display_name)));
    this.form = new Form();
    this.enhancer = new Enhancer(this.form, () => this.model.id, [$("enhance-prompt"), $("inspiration")]);
    const draft = JSON.parse(visit.get(DRAFT) ?? "null");
    const asked = new URLSearchParams(location.search).get("model") ?? draft?.model;
    if (this.models.has(asked)) $("model").value = asked;
    this.#drawFields();
    if (draft?.model === this.model.id) this.#fill(draft.values);
    this.form.addEventListener("change", () => this.#changed());
    $("model").addEventListener("change", () => {
      const kept = this.form.values.prompt;
      this.#drawFields();
      this.form.fill({ prompt: kept });
    });
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#generate();
    });
    $("form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
    });
    $("reset").addEventListener("click", () => {
      this.#fillOwn({});
      this.enhancer.forget();
      for (const input of this.inputs) input.set(null);
      this.form.reset();
    });
    for (const id of Object.keys(OWN_PARAMETERS)) $(id).addEventListener("change", () => this.#changed());
    $("join").addEventListener("change", () => this.#changed());
    for (const input of this.inputs) {
      input.addEventListener("change", () => {
        if (input === this.images[0]) this.#continue(null);
        this.#offerImageMode();
        // a video is made of images or of another video
        if (input.value && input !== this.audio) for (const other of input === this.video ? this.images : [this.video]) other.set(null);
        $("strength-field").hidden = !this.video.value;
        this.#changed();
      });
    }
    for (const input of [this.images[0], this.video]) {
      input.addEventListener("chosen", async () => {
        const file = input.value;
        const sides = await input.sides();
        if (sides && input.value === file) this.form.fit(...sides);
      });
    }
    $("image-mode").addEventListener("change", () => this.#changed());
  }

  /** What the form asks for: the schema's parameters, and those of this server's own that are chosen. */
  get values() {
    const own = Object.entries(OWN_PARAMETERS)
      .filter(([id, name]) => name in this.#own && (id !== "strength" || this.video.value))
      .map(([id, name]) => [name, ofField(name, $(id))]);
    const given = this.#given((input) => input.placeholder);
    const all = this.images[0].value && this.#isAnswered() && !this.#isApproximate ? this.form.changed : this.form.values;
    // what is joined has the size of the video before it
    const named = Object.entries(all).filter(([name]) => !(this.#isJoined && ["width", "height"].includes(name)));
    return { ...Object.fromEntries(named), ...Object.fromEntries([...own.filter(([, value]) => value !== undefined), ...given]) };
  }

  /** What of the inputs a request has, each as `valueOf` makes it, and how it begins with them. */
  #given(valueOf) {
    const given = this.inputs.filter(({ name, value }) => value && !(this.#isJoined && name === IMAGES[0]));
    const named = given.map((input) => [input.name, valueOf(input)]);
    if (this.#isJoined) named.push(["extend_from", this.continued]);
    if (this.images[0].value && this.#isApproximate) named.push(["image_mode", "first_frame"]);
    return named;
  }

  /** Whether the model's weights for text begin with the image, instead of ones that are trained to. */
  get #isApproximate() {
    return !$("image-mode-field").hidden && $("image-mode").checked;
  }

  get #isJoined() {
    return this.continued !== null && $("join").checked;
  }

  /** The generation whose last frame is the first one, null for none. */
  #continue(id, isJoined = false) {
    this.continued = id;
    $("join-field").hidden = id === null;
    $("join").checked = isJoined;
  }

  /** Whether another model, which has defaults of its own, answers what has an image. */
  #isAnswered() {
    return !this.model.capabilities.input.includes("image");
  }

  /** This server's own parameters that the model takes. */
  get #own() {
    return this.model["x-paddock-parameters"] ?? {};
  }

  #takes(model, name = IMAGES[0]) {
    const own = this.models.get(model)?.["x-paddock-parameters"] ?? {};
    return name in own || (name === IMAGES[0] && "image_mode" in own);
  }

  #fill(values) {
    this.#fillOwn(values);
    this.form.fill(values);
    this.enhancer.forget();
  }

  #fillOwn(values) {
    if (!$("image-mode").disabled) $("image-mode").checked = Boolean(values.image_mode);
    for (const [id, name] of Object.entries(OWN_PARAMETERS)) fillField(name, $(id), values[name]);
    this.sound.draw();
  }

  /** With the demo's weights: a size that takes seconds on a CPU. The model's default takes many minutes there. */
  #fillSmall() {
    if (this.model.weights === "demo") this.form.fill(SMALL);
  }

  #drawFields() {
    offerLoras(this.model.id);
    for (const input of this.inputs) input.offer(this.#takes(this.model.id, input.name));
    // some take an image in no other way
    $("image-mode").disabled = !(IMAGES[0] in this.#own);
    $("image-mode").checked = $("image-mode").disabled;
    this.#offerImageMode();
    this.form.draw(this.model.request_schema, this.model.fps, $("basic"), $("more-fields"));
    this.enhancer.draw(this.#own.enhance_prompt);
    this.sound.offer("generate_audio" in this.#own);
    this.#fillSmall();
  }

  #offerImageMode() {
    $("image-mode-field").hidden = !this.images[0].value || !("image_mode" in this.#own);
  }

  #choose(model) {
    if (model === this.model.id) return;
    $("model").value = model;
    this.#drawFields();
  }

  #changed() {
    // files are too large to be kept
    const { input_image: _, end_image_url: __, input_video: ___, extend_from: ____, image_mode: _____, input_audio: ______, ...values } = this.values;
    visit.set(DRAFT, JSON.stringify({ model: this.model.id, values }));
    say($("form-error"), "");
    this.api?.draw();
  }

  #listen() {
    this.generations.addEventListener("row", ({ detail: row }) => {
      this.history.list.update(row);
      this.#drawFeed();
    });
    this.generations.addEventListener("removed", ({ detail: id }) => {
      this.compare.set(id, false);
      this.#drawFeed();
      if (!$("panel-history").hidden) this.history.open();
    });
    this.compare.addEventListener("change", () => [this.feed, this.history.list].forEach((list) => list.mark()));
    this.generations.addEventListener("connection", ({ detail: isOpen }) => banner("offline", isOpen ? "" : t("offline")));
    this.machine.addEventListener("ready", ({ detail: ready }) => {
      banner("trouble", "");
      const small = h("button", { type: "button", onclick: () => this.form.fill(SMALL) }, t("demoSize"));
      banner("demo", ready.demo ? t("demo") : "", small);
    });
    this.machine.addEventListener("trouble", ({ detail: sentence }) => banner("trouble", sentence));
    $("language").addEventListener("click", switchLanguage);
    $("key-forget").addEventListener("click", () => {
      key.forget();
      location.reload();
    });
    $("key-forget").hidden = key.get() === "";
  }

  /** What runs, what waits in its order, then the newest of what is over. */
  #drawFeed() {
    const all = [...this.generations.rows.values()].reverse();
    const rank = (row) => (row.status === "processing" ? 0 : (row.queue_position ?? Infinity));
    const active = all.filter(isActive).sort((a, b) => rank(a) - rank(b));
    const over = all.filter((row) => !isActive(row)).sort((a, b) => b.enqueued_at - a.enqueued_at);
    const rows = [...active, ...over.slice(0, SHOWN)];
    this.feed.show(rows);
    $("no-results").hidden = rows.length > 0;
  }

  #opened(name) {
    this.compare.opened(name === "compare");
    if (name === "history") this.history.open().catch((error) => banner("trouble", error.message));
  }

  async #generate() {
    if (!this.form.check()) return say($("form-error"), t("error.form"));
    const count = Number($("count").value);
    const given = Object.fromEntries(this.#given((input) => input.value));
    await this.#submit({ model: this.model.id, ...this.values, ...(count > 1 && { num_generations: count }) }, given);
  }

  /** Asks for a generation; `inputs` are its files and URLs by their parameters. */
  async #submit(body, inputs) {
    $("generate").disabled = true;
    say($("generate"), t("generating"));
    try {
      const named = Object.entries(inputs).map(async ([name, value]) => [name, typeof value === "string" ? value : await sent(value)]);
      await this.generations.create({ ...body, ...Object.fromEntries(await Promise.all(named)) });
      say($("form-error"), "");
      this.enhancer.generated(body.prompt);
    } catch (error) {
      say($("form-error"), error.message);
    } finally {
      $("generate").disabled = false;
      say($("generate"), t("generate"));
    }
  }

  /** What cards ask for. */
  #page() {
    const told = (action) => (...given) => action(...given).catch((error) => banner("trouble", error.message));
    return {
      schemaOf: (row) => this.models.get(row.answered_by ?? row.model_name)?.request_schema,
      fpsOf: (row) => this.models.get(row.answered_by ?? row.model_name)?.fps,
      use: told(async (row, changes = {}) => {
        this.#choose(row.model_name);
        this.#fill({ ...settingsOf(row, this.page.schemaOf(row)), ...changes });
        this.open("create");
        $("field-prompt").focus();
        await Promise.all(this.inputs.map((input) => input.fetch(inputAddress(row, input.name))));
        if (row.extend_from) this.#continue(row.extend_from, true);
        this.#changed();
      }),
      again: told(async (row) => {
        const { seed: _, width, height, ...others } = settingsOf(row, this.page.schemaOf(row));
        const settings = { ...others, ...(!row.extend_from && { width, height }) };
        this.open("create");
        // without it the model that was asked would answer
        if (row.answered_by && !row.input_image && !row.extend_from) throw new Error(t("image.gone"));
        const given = row.extend_from ? { extend_from: row.extend_from } : {};
        for (const { name } of this.inputs.filter(({ name }) => row[name])) {
          const own = inputAddress(row, name);
          given[name] = own ? await fileAt(own) : row[name];
        }
        await this.#submit({ model: row.model_name, ...settings }, given);
      }),
      takesImage: (id) => this.#takes(id),
      continueFrom: told(async (row, seconds) => {
        const asked = (this.asked = Symbol("continue"));
        const frame = await frameAt(ownAddress(row.result_url), seconds);
        // another card was asked meanwhile
        if (asked !== this.asked) return;
        this.#choose(row.model_name);
        this.#fill(settingsOf(row, this.page.schemaOf(row)));
        this.images[0].set(frame);
        this.images[1].set(null);
        // only what begins with the last frame can be joined
        if (seconds === undefined) this.#continue(row.generation_id);
        this.#changed();
        this.open("create");
        $("field-prompt").focus();
      }),
      cancel: told((id) => this.generations.cancel(id)),
      remove: told((id) => this.generations.remove(id)),
      refresh: told((id) => this.generations.ask(id)),
      isCompared: (id) => this.compare.ids.includes(id),
      compare: (id, isIn) => {
        const isNow = this.compare.set(id, isIn);
        banner("compare", isIn && !isNow ? t("compareFull") : "");
        return isNow;
      },
    };
  }
}

new Workbench().start();
