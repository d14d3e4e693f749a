/** A sweep: one video for each value of a parameter, or of two, that are otherwise the same. */

import { $, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { MOST_VIDEOS } from "../form/sending/wildcards.js";
import { axesOf, offer, suggested, valuesOf, withValue } from "./axes.js";

const LINES = ["rows", "columns"];

/** Fires "change" when what is swept changes. */
export class Sweep extends EventTarget {
  #axes = [];

  /** `schema()` and `loras()` are what the form has now. */
  constructor(schema, loras) {
    super();
    Object.assign(this, { schema, loras });
    $("sweep-toggle").addEventListener("click", () => this.open(!this.isOn));
    for (const line of LINES) {
      $(`sweep-${line}`).addEventListener("change", () => {
        const axis = this.#axis(line);
        $(`sweep-${line}-values`).value = axis ? suggested(axis) : "";
        this.#changed();
      });
      $(`sweep-${line}-values`).addEventListener("input", () => this.#changed());
    }
    this.open(false);
  }

  get isOn() {
    return $("sweep-toggle").getAttribute("aria-expanded") === "true";
  }

  open(isOn) {
    $("sweep-toggle").setAttribute("aria-expanded", String(isOn));
    $("sweep-part").hidden = !isOn;
    if (isOn) this.draw();
    if (isOn && !$("sweep-rows-values").value) $("sweep-rows-values").value = suggested(this.#axis("rows"));
    this.#changed();
    // below the part of the form that is seen it would seem that nothing happened
    if (isOn) $("sweep-part").scrollIntoView({ block: "nearest" });
  }

  /** Offers what can be swept now. */
  draw() {
    this.#axes = axesOf(this.schema(), this.loras());
    offer("sweep-rows", this.#axes);
    offer("sweep-columns", this.#axes, t("sweep.none"));
    this.#show();
  }

  /** The requests of the sweep, row by row, and the names of its lines. Throws an error with a sentence. */
  plan(base) {
    const [rows, columns] = LINES.map((line) => this.#line(line));
    if (columns && columns.axis.name === rows.axis.name) throw new Error(t("sweep.same"));
    if (rows.values.length * (columns?.values.length ?? 1) > MOST_VIDEOS) throw new Error(t("wildcards.many", { most: MOST_VIDEOS }));
    // what differs is the swept parameter alone
    const seed = base.seed ?? Math.floor(Math.random() * 2 ** 32);
    const bodies = rows.values.flatMap((row) => {
      const body = withValue({ ...base, seed }, rows.axis, row);
      return columns ? columns.values.map((column) => withValue(body, columns.axis, column)) : [body];
    });
    const named = (line) => line && { title: line.axis.label, labels: line.values.map(String) };
    return { bodies, rows: named(rows), columns: named(columns) };
  }

  #axis(line) {
    return this.#axes.find(({ name }) => name === $(`sweep-${line}`).value);
  }

  #line(line) {
    const axis = this.#axis(line);
    return axis ? { axis, values: valuesOf(axis, $(`sweep-${line}-values`).value) } : null;
  }

  #changed() {
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    $("sweep-columns-values").disabled = !$("sweep-columns").value;
    for (const line of LINES) {
      let sentence = "";
      try {
        if (this.isOn) this.#line(line);
      } catch (error) {
        sentence = error.message;
      }
      say($(`sweep-${line}-error`), sentence);
      $(`sweep-${line}-values`).setAttribute("aria-invalid", String(sentence !== ""));
    }
  }
}
