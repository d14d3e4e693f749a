/** What a sweep can change, and the values that a text names. */

import { $ } from "../core/dom.js";
import { t } from "../core/strings.js";

const SWEPT = ["seed", "guidance_scale", "num_inference_steps"];
const SAMPLERS = ["unipc", "dpm++", "euler"];
const MAX_SEED = Number.MAX_SAFE_INTEGER;
const STRONGEST = 4;
// "1–7 / 4", "1..7 / 4" or "1–7"
const RANGE = /^(-?\d+(?:\.\d+)?)\s*(?:–|\.\.)\s*(-?\d+(?:\.\d+)?)(?:\s*\/\s*(\d+))?$/;

const rounded = (value) => Number(value.toFixed(4));

/** The parameters that can be swept for a model's schema and the LoRAs chosen, each `{name, label, low, high, isWhole}`. */
export function axesOf(schema, loras) {
  const numbers = SWEPT.filter((name) => name in schema.properties).map((name) => {
    const { type, minimum = 0, maximum = MAX_SEED } = schema.properties[name];
    return { name, label: t(`title.${name}`), low: minimum, high: maximum, isWhole: type === "integer" };
  });
  const strengths = loras.map((lora) => ({ name: `lora:${lora}`, lora, label: t("lora.strength", { name: lora }), low: -STRONGEST, high: STRONGEST }));
  return [...numbers, { name: "sampler", label: t("title.sampler"), words: SAMPLERS }, ...strengths];
}

/** A text with which an axis may begin. */
export function suggested({ name, words }) {
  if (words) return words.join(", ");
  return { seed: "1, 2, 3", guidance_scale: "3, 5, 7", num_inference_steps: "8, 16, 24" }[name] ?? "0.4, 0.7, 1";
}

/** The values of an axis that a text names. Throws an error with a sentence. */
export function valuesOf(axis, text) {
  const { label: field, low, high, isWhole, words, lora } = axis;
  const values = words ? split(text) : numbers(text.trim(), isWhole);
  if (values.length === 0) throw new Error(t("sweep.empty", { field }));
  if (new Set(values).size < values.length) throw new Error(t("sweep.twice", { field }));
  for (const value of values) {
    if (words && !words.includes(value)) throw new Error(t("sweep.word", { field, words: words.join(", ") }));
    if (words) continue;
    if (!Number.isFinite(value)) throw new Error(t("error.number", { field }));
    if (isWhole && !Number.isSafeInteger(value)) throw new Error(t("error.integer", { field }));
    if (value < low || value > high) throw new Error(t("error.range", { field, low, high }));
    if (lora && value === 0) throw new Error(t("lora.zero", { field }));
  }
  return values;
}

const split = (text) => text.split(/[,，;]/).map((part) => part.trim()).filter(Boolean);

function numbers(text, isWhole) {
  const range = text.match(RANGE);
  if (!range) return split(text).map(Number);
  const [first, last] = [Number(range[1]), Number(range[2])];
  const count = range[3] ? Number(range[3]) : Math.abs(last - first) + 1;
  // more than this is refused anyway
  const steps = Math.min(Math.floor(count), 99);
  const at = (n) => first + (steps > 1 ? (n * (last - first)) / (steps - 1) : 0);
  return Array.from({ length: steps }, (_, n) => (isWhole ? Math.round(at(n)) : rounded(at(n))));
}

/** A request with a value of an axis. */
export function withValue(body, axis, value) {
  if (!axis.lora) return { ...body, [axis.name]: value };
  return { ...body, loras: body.loras.map((lora) => (lora.name === axis.lora ? { ...lora, strength: value } : lora)) };
}

/** Draws the names of axes into a select, and keeps what is chosen where it is still there. */
export function offer(id, axes, none = null) {
  const options = axes.map(({ name, label }) => new Option(label, name));
  const kept = $(id).value;
  $(id).replaceChildren(...(none === null ? [] : [new Option(none, "")]), ...options);
  if ([...$(id).options].some(({ value }) => value === kept)) $(id).value = kept;
}
