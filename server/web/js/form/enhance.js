/** Enhance below the prompt: a language model of the server rewrites what the field holds, and Undo takes that back. */

import { request } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

const seconds = (value) => value.toFixed(value < 10 ? 1 : 0);

export class Enhancer {
  // what cancels the request that runs, null without one
  #running = null;
  // what the prompt was before it was rewritten, and which boxes were ticked: one entry each time
  #undone = [];
  #offered = null;
  // the sentence about what is offered
  #about = "";

  /** `form` has the prompt and the seed, `model()` is the id of its model, `boxes` ask for other words when generating. */
  constructor(form, model, boxes) {
    Object.assign(this, { form, model, boxes });
    const button = (name, action) => h("button", { type: "button", onclick: action }, t(name));
    this.button = button("enhance", () => (this.#running ? this.cancel() : this.#enhance()));
    this.undo = button("undo", () => this.#undo());
    this.note = h("p", { class: "hint", "aria-live": "polite" });
    this.text = h("p", { class: "offered", dir: "auto", tabindex: 0, role: "region", "aria-label": t("title.enhanced_prompt") });
    this.offer = h("div", { class: "offer" }, this.text, button("useEnhanced", () => this.#accept()));
    this.element = h("div", { class: "enhance" }, h("div", { class: "row" }, this.button, this.undo), this.note, this.offer);
    this.#show();
  }

  /** Shows it below the prompt of a form that was just drawn. `about` is the parameter's schema, if the model takes it. */
  draw(about) {
    const box = $("enhance-prompt");
    const isTouched = box.checked !== box.defaultChecked;
    box.defaultChecked = about?.default ?? false;
    if (!isTouched) box.checked = box.defaultChecked;
    $("enhance-field").hidden = !about;
    this.forget();
    this.element.hidden = !about;
    $("field-prompt").parentElement.append(this.element);
  }

  /** There is another prompt: nothing that was before it can be undone or is awaited any more. */
  forget() {
    this.cancel();
    this.#undone = [];
    this.#offered = null;
    this.#say("");
    this.#show();
  }

  /** Forgets if the prompt that is generated is still the one in the form. */
  generated(prompt) {
    if (prompt === this.#prompt) this.forget();
  }

  cancel() {
    this.#running?.abort();
    this.#running = null;
    this.#show();
  }

  get #prompt() {
    return $("field-prompt").value;
  }

  async #enhance() {
    const prompt = this.#prompt;
    if (prompt.trim() === "") {
      // the field says that it is required
      this.form.fill({ prompt });
      return $("field-prompt").focus();
    }
    const running = (this.#running = new AbortController());
    this.#offered = null;
    this.#say("");
    this.#show();
    try {
      const json = { prompt, model: this.model(), seed: this.form.values.seed };
      const answer = await request("api/ai/prompts/enhance", { method: "POST", json, signal: running.signal });
      if (!running.signal.aborted) this.#answered(prompt, answer);
    } catch (error) {
      if (!running.signal.aborted) this.#say(error.message, "error");
    } finally {
      if (this.#running === running) this.#running = null;
      this.#show();
    }
  }

  #answered(asked, { enhanced_prompt: enhanced, model, seconds: took, warnings }) {
    if (enhanced === asked) {
      return warnings.length ? this.#say(warnings.join(" "), "warning") : this.#say(t("enhance.same"));
    }
    const about = [t("enhance.by", { model, seconds: seconds(took) }), ...warnings].join(" ");
    if (this.#prompt !== asked) {
      // what was typed meanwhile is worth more than the answer
      this.#offered = enhanced;
      this.#about = about;
      return this.#say(t("enhance.changed"));
    }
    this.#replace(enhanced, about);
  }

  #replace(enhanced, sentence) {
    const ticked = this.boxes.map((box) => box.checked);
    this.#undone.push({ prompt: this.#prompt, ticked });
    this.#offered = null;
    this.#fill(enhanced, []);
    // else the video would be made of other words than those that are read here
    this.#say([sentence, ticked.includes(true) && t("enhance.off")].filter(Boolean).join(" "));
  }

  #accept() {
    this.#replace(this.#offered, this.#about);
    this.#show();
    $("field-prompt").focus();
  }

  #undo() {
    this.cancel();
    const { prompt, ticked } = this.#undone.pop();
    this.#offered = null;
    this.#fill(prompt, ticked);
    this.#say("");
    this.#show();
    // the button may be gone
    $("field-prompt").focus();
  }

  #fill(prompt, ticked) {
    for (const [number, box] of this.boxes.entries()) box.checked = ticked[number] ?? false;
    this.form.fill({ prompt });
  }

  #say(sentence, kind = "hint") {
    this.note.className = kind;
    say(this.note, sentence);
  }

  #show() {
    say(this.button, t(this.#running ? "enhancing" : "enhance"));
    this.button.classList.toggle("busy", this.#running !== null);
    this.undo.hidden = this.#undone.length === 0;
    this.offer.hidden = this.#offered === null;
    say(this.text, this.#offered ?? "");
  }
}
