/** What a generation was asked for, by its model's request schema. */

import { toText } from "./fields/loras.js";
import { t } from "../core/strings.js";

/** The parameters of a schema in the order to be shown: `[name, property]`. */
export function parameters(schema) {
  return Object.entries(schema.properties).sort(([, a], [, b]) => a["x-order"] - b["x-order"]);
}

const ENHANCE = "enhance_prompt";

/** Parameters of this server that no model's schema has, by the id of their form field. */
export const OWN_PARAMETERS = {
  "step-cache": "step_cache",
  sampler: "sampler",
  "enhance-prompt": ENHANCE,
  inspiration: "inspiration",
  "generate-audio": "generate_audio",
  "audio-prompt": "audio_prompt",
  loras: "loras",
  strength: "strength",
};

/** The value of such a parameter by its field; undefined where the field says nothing. */
export function ofField(name, field) {
  // what a box says without being touched is the model's default
  if (name === ENHANCE) return field.checked === field.defaultChecked ? undefined : field.checked;
  if (field.type === "checkbox") return field.checked || undefined;
  if (name === "loras") return field.value;
  if (field.disabled || field.value === "") return undefined;
  return name === "strength" ? Number(field.value) : field.value;
}

/** The other way round. */
export function fillField(name, field, value) {
  if (field.type === "checkbox") field.checked = Boolean(value ?? field.defaultChecked);
  else field.value = value ?? "";
}

/** Whether the prompt of a row was to be enhanced; undefined where nothing tells. */
function enhances(row) {
  // a request that says nothing about it may have met a model with another default
  return row.enhance_prompt ?? row.prompt_extend ?? (row.enhanced_prompt === undefined || row.inspiration ? undefined : true);
}

/** Whether a row waits for its enhanced prompt. Warnings say if there will be none; all begin alike. */
export function awaitsPrompt(row) {
  const isRefused = row.warnings?.some((warning) => warning.startsWith("The prompt was not enhanced"));
  return row.status === "queued" && (row.inspiration || enhances(row) === true) && row.enhanced_prompt === undefined && !isRefused;
}

export function title(name, property) {
  return t(`title.${name}`) ?? property.title ?? name;
}

/** Every parameter of a row, with the default where its request named none; this server's own parameters if named. */
export function settingsOf(row, schema) {
  return Object.fromEntries(
    [...parameters(schema), ...[...Object.values(OWN_PARAMETERS), "image_mode"].map((name) => [name, {}])]
      .map(([name, { default: standard }]) => [name, (name === ENHANCE ? enhances(row) : row[name]) ?? standard])
      .filter(([, value]) => value !== undefined),
  );
}

/** The settings of a row in a few words each. */
export function facts(row, schema) {
  const { width, height, num_frames: frames, num_inference_steps: steps, ...rest } = settingsOf(row, schema);
  return [
    width && height && `${width} × ${height}`,
    frames && t("frames", { frames }),
    steps && t("steps", { steps }),
    rest.guidance_scale !== undefined && t("guidance", { guidance: rest.guidance_scale }),
    rest.run_fast && t("title.run_fast"),
    rest.step_cache && t("speed", { speed: t(`cache.${rest.step_cache}`) }),
    rest.sampler,
    row.inspiration_style && t("style", { style: row.inspiration_style }),
    rest.generate_audio && row.has_audio && t("madeSound"),
    rest.image_mode && t("imageMode"),
    rest.strength && t("strength", { strength: rest.strength }),
    toText(rest.loras),
    rest.seed !== undefined && t("seed", { seed: rest.seed }),
    row.answered_by && t("answeredBy", { model: row.answered_by }),
  ].filter(Boolean);
}
