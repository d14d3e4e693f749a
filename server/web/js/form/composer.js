/** The form as a whole: which model is asked for what, with which inputs; and a row's settings put back into it. */

import { inputAddress, ownAddress, stored } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { visit } from "../core/storage.js";
import { t } from "../core/strings.js";
import { keepInView } from "./column.js";
import { Enhancer } from "./enhance.js";
import { Estimate } from "./sending/estimate.js";
import { Examples } from "./examples.js";
import { Form } from "./form.js";
import { AUDIO, fileAt, frameAt, IMAGES, InputField, INPUTS, VIDEO } from "./inputs.js";
import { LoraPicker } from "./fields/loras.js";
import { MadeSound } from "./madesound.js";
import { firstOf, plain, planOf, videosOf } from "./sending/plan.js";
import { Presets } from "./presets/presets.js";
import { sendAll, uploaded } from "./sending/sender.js";
import { fillField, ofField, OWN_PARAMETERS, settingsOf } from "./settings.js";
import { drawSpeed } from "./fields/speed.js";
import { Grids } from "../sweep/grid.js";
import { Sweep } from "../sweep/sweep.js";

const DRAFT = stored("draft");
const SMALL = { width: 416, height: 240, num_frames: 33 };
// files are too large to be kept, and what names them goes with them
const NOT_KEPT = [...INPUTS, "extend_from", "image_mode"];

/** Fires "change" when what is asked for changes, and "sending" before it is sent. */
export class Composer extends EventTarget {
  /** The generation whose last frame is the first one, null for none. */
  #continued = null;
  #isSending = false;
  #isOffline = false;
  // the last frame that was asked for
  #asked = null;

  /** `models` are the server's, by id; `generations` enqueues. */
  constructor(models, generations) {
    super();
    Object.assign(this, { models, generations });
    [this.video, this.audio] = [new InputField(VIDEO, "video"), new InputField(AUDIO, "audio")];
    this.images = [new InputField(IMAGES[0], "image"), new InputField(IMAGES[1], "last-image")];
    this.inputs = [...this.images, this.video, this.audio];
    this.sound = new MadeSound(this.audio);
    $("model").replaceChildren(...[...models.values()].map((model) => h("option", { value: model.id }, model.display_name)));
    drawSpeed();
    this.loras = new LoraPicker();
    this.form = new Form();
    this.examples = new Examples(this.form);
    this.sweep = new Sweep(() => this.schema, () => this.loras.names);
    this.grids = new Grids(generations);
    this.estimate = new Estimate($("estimate"), () => this.#draftBody(), () => this.#countVideos(), (size) => this.form.fill(size));
    this.presets = new Presets(models, () => this.#preset(), (preset) => this.#apply(preset));
    this.enhancer = new Enhancer(this.form, () => this.model.id, [$("enhance-prompt"), $("inspiration")]);
    this.#restore();
    this.#listen();
    keepInView($("form"));
  }

  get model() {
    return this.models.get($("model").value);
  }

  get schema() {
    return this.form.schema;
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
    const values = { ...Object.fromEntries(named), ...Object.fromEntries([...own.filter(([, value]) => value !== undefined), ...given]) };
    return { ...values, prompt: firstOf(values.prompt) };
  }

  /** Whether a model takes an image. */
  takesImage(id) {
    return this.#takes(id, IMAGES[0]);
  }

  /** Puts the settings and inputs of a row into the form, some of them changed. */
  async use(row, changes = {}) {
    this.#choose(row.model_name);
    this.#fill(plain({ ...settingsOf(row, this.#schemaOf(row)), ...changes }));
    $("field-prompt").focus();
    await Promise.all(this.inputs.map((input) => input.fetch(inputAddress(row, input.name))));
    if (row.extend_from) this.#continue(row.extend_from, true);
    this.#changed();
  }

  /** Asks for what a row is made of, with another seed. */
  async again(row) {
    const { seed: _, width, height, ...others } = settingsOf(row, this.#schemaOf(row));
    const settings = { ...others, ...(!row.extend_from && { width, height }) };
    // without it the model that was asked would answer
    if (row.answered_by && !row.input_image && !row.extend_from) throw new Error(t("image.gone"));
    const given = row.extend_from ? { extend_from: row.extend_from } : {};
    for (const { name } of this.inputs.filter(({ name }) => row[name])) {
      const own = inputAddress(row, name);
      given[name] = own ? await fileAt(own) : row[name];
    }
    await this.#submit({ bodies: [{ model: row.model_name, ...settings, prompt: row.prompt }] }, given);
  }

  /** Takes a frame of a row's video as the first one, its last by default, and the row's settings. */
  async continueFrom(row, seconds) {
    const asked = (this.#asked = Symbol("continue"));
    const frame = await frameAt(ownAddress(row.result_url), seconds);
    // another was asked for meanwhile
    if (asked !== this.#asked) return;
    this.#choose(row.model_name);
    this.#fill(plain(settingsOf(row, this.#schemaOf(row))));
    this.images[0].set(frame);
    this.images[1].set(null);
    // only what begins with the last frame can be joined
    if (seconds === undefined) this.#continue(row.generation_id);
    this.#changed();
    $("field-prompt").focus();
  }

  /** With the demo's weights: a size that takes seconds on a CPU. The model's default takes many minutes there. */
  #fillSmall() {
    this.form.fill(SMALL);
  }

  /** Whether the server can be reached: what is asked of it while it cannot would be lost. */
  connected(isOpen) {
    this.#isOffline = !isOpen;
    this.#offerGenerate();
  }

  #offerGenerate() {
    $("generate").disabled = this.#isSending || this.#isOffline;
    say($("generate"), t(this.#isSending ? "generating" : "generate"));
  }

  #schemaOf(row) {
    return this.models.get(row.answered_by ?? row.model_name)?.request_schema;
  }

  #restore() {
    const draft = JSON.parse(visit.get(DRAFT) ?? "null");
    const asked = new URLSearchParams(location.search).get("model") ?? draft?.model;
    if (this.models.has(asked)) $("model").value = asked;
    this.#draw();
    if (draft?.model === this.model.id) this.#fill(draft.values);
  }

  #listen() {
    for (const part of [this.form, this.sweep, $("count")]) part.addEventListener("change", () => this.#changed());
    // its time is known once the first of its kind is made
    this.generations.addEventListener("row", ({ detail: row }) => row.status !== "processing" && this.estimate.ask());
    $("model").addEventListener("change", () => {
      const kept = this.form.values.prompt;
      this.#draw();
      this.form.fill({ prompt: kept });
    });
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#generate();
    });
    $("form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
    });
    $("reset").addEventListener("click", () => this.#reset());
    for (const id of [...Object.keys(OWN_PARAMETERS), "join", "image-mode"]) $(id).addEventListener("change", () => this.#changed());
    for (const input of this.inputs) input.addEventListener("change", () => this.#chosen(input));
    for (const input of [this.images[0], this.video]) {
      input.addEventListener("chosen", async () => {
        const file = input.value;
        const sides = await input.sides();
        if (sides && input.value === file) this.form.fit(...sides);
      });
    }
  }

  #chosen(input) {
    if (input === this.images[0]) this.#continue(null);
    this.#offerImageMode();
    // a video is made of images or of another video
    if (input.value && input !== this.audio) for (const other of input === this.video ? this.images : [this.video]) other.set(null);
    $("strength-field").hidden = !this.video.value;
    this.#changed();
  }

  #reset() {
    this.#fillOwn({});
    this.enhancer.forget();
    for (const input of this.inputs) {
      input.set(null);
      input.close();
    }
    this.form.reset();
  }

  /** What of the inputs a request has, each as `valueOf` makes it, and how it begins with them. */
  #given(valueOf) {
    const given = this.inputs.filter(({ name, value }) => value && !(this.#isJoined && name === IMAGES[0]));
    const named = given.map((input) => [input.name, valueOf(input)]);
    if (this.#isJoined) named.push(["extend_from", this.#continued]);
    if (this.images[0].value && this.#isApproximate) named.push(["image_mode", "first_frame"]);
    return named;
  }

  /** Whether the model's weights for text begin with the image, instead of ones that are trained to. */
  get #isApproximate() {
    return !$("image-mode-field").hidden && $("image-mode").checked;
  }

  get #isJoined() {
    return this.#continued !== null && $("join").checked;
  }

  #continue(id, isJoined = false) {
    this.#continued = id;
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

  #takes(model, name) {
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

  #draw() {
    this.loras.offer(this.model.id);
    for (const input of this.inputs) input.offer(this.#takes(this.model.id, input.name));
    // some take an image in no other way
    $("image-mode").disabled = !(IMAGES[0] in this.#own);
    $("image-mode").checked = $("image-mode").disabled;
    this.#offerImageMode();
    this.form.draw(this.model.request_schema, this.model.fps);
    this.enhancer.draw(this.#own.enhance_prompt);
    this.examples.draw(this.model);
    this.sound.offer("generate_audio" in this.#own);
    if (this.model.weights === "demo") this.#fillSmall();
  }

  #offerImageMode() {
    $("image-mode-field").hidden = !this.images[0].value || !("image_mode" in this.#own);
  }

  #choose(model) {
    if (model === this.model.id) return;
    $("model").value = model;
    this.#draw();
  }

  #changed() {
    const values = Object.fromEntries(Object.entries(this.values).filter(([name]) => !NOT_KEPT.includes(name)));
    visit.set(DRAFT, JSON.stringify({ model: this.model.id, values: { ...values, prompt: this.form.values.prompt } }));
    say($("form-error"), "");
    if (this.sweep.isOn) this.sweep.draw();
    const count = this.#countVideos();
    say($("makes"), count > 1 ? t("makes", { count }) : "");
    this.estimate.ask();
    this.dispatchEvent(new Event("change"));
  }

  #plan() {
    return planOf(this.form.values.prompt, { model: this.model.id, ...this.values }, this.sweep, Number($("count").value));
  }

  /** How many videos the form makes; 0 while it cannot. */
  #countVideos() {
    try {
      return videosOf(this.#plan());
    } catch {
      return 0;
    }
  }

  /** The request to be estimated; null while the form is not right. */
  #draftBody() {
    return this.form.isRight && this.loras.isRight ? { model: this.model.id, ...this.values } : null;
  }

  /** What a preset keeps: the look, not what is seen. */
  #preset() {
    const { prompt: _, ...others } = this.values;
    return { model: this.model.id, settings: Object.fromEntries(Object.entries(others).filter(([name]) => !NOT_KEPT.includes(name))) };
  }

  #apply({ model, settings }) {
    this.#choose(model);
    const { prompt } = this.form.values;
    const defaults = Object.entries(this.schema.properties).map(([name, property]) => [name, property.default]);
    this.#fill({ ...Object.fromEntries(defaults), prompt, ...settings });
    this.#changed();
  }

  async #generate() {
    if (!this.form.check() || !this.loras.check()) return say($("form-error"), t("error.form"));
    let plan;
    try {
      plan = this.#plan();
    } catch (error) {
      return say($("form-error"), error.message);
    }
    await this.#submit(plan, Object.fromEntries(this.#given((input) => input.value)));
  }

  /** Asks for the generations of a plan; `inputs` are their files and URLs by their parameters. */
  async #submit(plan, inputs) {
    this.#isSending = true;
    this.dispatchEvent(new Event("sending"));
    this.#offerGenerate();
    try {
      const given = await uploaded(inputs);
      const bodies = plan.bodies.map((body) => ({ ...body, ...given }));
      say($("form-error"), "");
      if (plan.rows) await this.grids.begin({ ...plan, bodies }, bodies[0].prompt);
      else await sendAll(this.generations, bodies);
      this.enhancer.generated(this.form.values.prompt);
    } catch (error) {
      say($("form-error"), error.message);
    } finally {
      this.#isSending = false;
      this.#offerGenerate();
    }
  }
}
