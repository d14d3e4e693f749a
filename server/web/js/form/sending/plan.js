/** The requests that the form stands for: one, one for each combination of alternatives in the prompt, or a sweep's. */

import { t } from "../../core/strings.js";
import { escaped, expand, MOST_VIDEOS } from "./wildcards.js";

/**
 * `{bodies}` of the requests, with the `rows` and `columns` of their grid if it is a sweep. `text` is the prompt as it was
 * written, `base` the request without its alternatives. Throws an error with a sentence.
 */
export function planOf(text, base, sweep, count) {
  const prompts = expand(text);
  if (prompts.some((prompt) => prompt.trim() === "")) throw new Error(t("error.required", { field: t("title.prompt") }));
  if (sweep.isOn && prompts.length > 1) throw new Error(t("sweep.prompts"));
  if (sweep.isOn) return sweep.plan(base);
  if (prompts.length * count > MOST_VIDEOS) throw new Error(t("wildcards.many", { most: MOST_VIDEOS }));
  return { bodies: prompts.map((prompt) => ({ ...base, prompt, ...(count > 1 && { num_generations: count }) })) };
}

/** How many videos a plan makes. */
export const videosOf = ({ bodies }) => bodies.reduce((sum, body) => sum + (body.num_generations ?? 1), 0);

/** The first prompt that a text stands for; the text itself if there are too many. */
export function firstOf(text) {
  try {
    return expand(text)[0];
  } catch {
    return text;
  }
}

/** Settings whose prompt stands for itself alone. */
export const plain = ({ prompt, ...others }) => ({ ...others, ...(prompt !== undefined && { prompt: escaped(prompt) }) });
