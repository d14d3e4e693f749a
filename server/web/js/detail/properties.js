/** Everything that is known about a generation besides its prompt, as names and values to be read. */

import { language, t, time } from "../core/strings.js";
import { settingsOf, title } from "../form/settings.js";
import { toText } from "../form/fields/loras.js";

const dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });

/** A moment in Unix seconds, in words. */
export const moment = (seconds) => dates.format(new Date(seconds * 1000));

// shown elsewhere, or said in another way
const ELSEWHERE = ["prompt", "width", "height", "num_frames", "enhance_prompt"];

/** `[name, value]` of each. */
export function properties(row, schema, page) {
  const { width, height, ...settings } = settingsOf(row, schema);
  const written = (value) => (Array.isArray(value) ? toText(value) : typeof value === "boolean" ? t(value ? "yes" : "no") : String(value));
  const of = (name, value) => value !== undefined && value !== null && value !== "" && [name, value];
  const [frames, fps] = [settings.num_frames, page.fpsOf(row)];
  return [
    of(t("model"), page.modelName(row.model_name)),
    of(t("answeredByName"), row.answered_by && page.modelName(row.answered_by)),
    of(t("size"), width && height && `${width} × ${height}`),
    of(t("length"), frames && t("secondsAt", { seconds: (frames / fps).toFixed(1), frames, fps })),
    ...Object.entries(settings)
      .filter(([name]) => !ELSEWHERE.includes(name))
      .map(([name, value]) => of(title(name, schema.properties[name] ?? {}), written(value).trim())),
    of(t("styleName"), row.inspiration_style),
    of(t("enhanceModel"), row.enhance_model),
    of(t("asked"), moment(row.enqueued_at)),
    of(t("began"), row.started_at && moment(row.started_at)),
    of(t("took"), row.started_at && row.completed_at && time(row.completed_at - row.started_at)),
    of(t("host"), row.execution?.host),
    of(t("device"), row.execution?.device),
    of(t("plan"), row.execution?.plan),
    of(t("precision"), row.execution?.precision),
    of(t("id"), row.generation_id),
  ].filter(Boolean);
}
