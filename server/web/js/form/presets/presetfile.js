/** Checks a preset that may come from anywhere against the schema of its model. */

import { t } from "../../core/strings.js";
import { OWN_PARAMETERS, title } from "../settings.js";

const MOST_LORAS = 8;
const STRONGEST = 4;
const MOST_CHARS = 10_000;
const CHOICES = { step_cache: ["exact", "balanced", "fast"], sampler: ["unipc", "dpm++", "euler"] };
const SWITCHES = ["enhance_prompt", "inspiration", "generate_audio"];

const isText = (value) => typeof value === "string" && value.length <= MOST_CHARS;

const isLora = (lora) =>
  lora !== null &&
  typeof lora === "object" &&
  typeof lora.name === "string" &&
  Object.keys(lora).every((name) => name === "name" || name === "strength") &&
  (lora.strength === undefined || (typeof lora.strength === "number" && lora.strength !== 0 && Math.abs(lora.strength) <= STRONGEST));

/** What is wrong with a value of the schema; undefined if nothing is. */
function wrongValue(field, { type, minimum = 0, maximum = Number.MAX_SAFE_INTEGER }, value) {
  if (type === "boolean") return typeof value === "boolean" ? undefined : t("preset.value", { field });
  if (type === "string") return isText(value) ? undefined : t("preset.value", { field });
  if (typeof value !== "number" || !Number.isFinite(value)) return t("error.number", { field });
  if (type === "integer" && !Number.isInteger(value)) return t("error.integer", { field });
  return value < minimum || value > maximum ? t("error.range", { field, low: minimum, high: maximum }) : undefined;
}

/** Whether a value of one of this server's own parameters is right. */
function isOwn(name, value) {
  if (name in CHOICES) return CHOICES[name].includes(value);
  if (SWITCHES.includes(name)) return typeof value === "boolean";
  if (name === "loras") return Array.isArray(value) && value.length <= MOST_LORAS && value.every(isLora);
  if (name === "strength") return typeof value === "number" && value >= 0.05 && value <= 1;
  return isText(value);
}

/** Sentences about what cannot be applied of a preset; none if all of it can. */
export function wrongIn(preset, models) {
  const { name, model: id, settings } = preset ?? {};
  if (typeof name !== "string" || name.trim() === "" || settings === null || typeof settings !== "object" || Array.isArray(settings)) {
    return [t("preset.noFile")];
  }
  const model = models.get(id);
  if (!model) return [t("preset.model", { model: String(id).slice(0, 100) })];
  const known = model.request_schema.properties;
  const own = Object.values(OWN_PARAMETERS);
  return Object.entries(settings)
    .map(([key, value]) => {
      if (Object.hasOwn(known, key)) return wrongValue(title(key, known[key]), known[key], value);
      if (!own.includes(key)) return t("preset.unknown", { name: key.slice(0, 100) });
      return isOwn(key, value) ? undefined : t("preset.value", { field: t(`title.${key}`) ?? key });
    })
    .filter(Boolean);
}
