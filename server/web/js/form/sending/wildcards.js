/** Prompts with alternatives: `{red|blue}` stands for each of its parts, and `\{`, `\|` and `\}` for themselves. */

import { t } from "../../core/strings.js";

/** So many videos are sent at a time. */
export const MOST_VIDEOS = 16;

// alternatives within alternatives give some combinations twice
const MOST_COMBINATIONS = 256;
const GROUP = /\{([^{}]*\|[^{}]*)\}/;
// private characters stand for what is escaped
const ESCAPED = { "\\{": "\uE000", "\\|": "\uE001", "\\}": "\uE002" };

const hide = (text) => text.replaceAll(/\\[{|}]/g, (pair) => ESCAPED[pair]);
const reveal = (text) => Object.entries(ESCAPED).reduce((shown, [pair, hidden]) => shown.replaceAll(hidden, pair[1]), text);

/** Every prompt that a text stands for, each once. Throws an error with a sentence if there are too many. */
export function expand(text) {
  let found = [hide(text)];
  for (let group = found[0].match(GROUP); group; group = found[0].match(GROUP)) {
    found = found.flatMap((each) => {
      const [whole, inner] = each.match(GROUP) ?? [];
      return whole === undefined ? [each] : inner.split("|").map((part) => each.replace(whole, () => part));
    });
    if (found.length > MOST_COMBINATIONS) break;
    // a text of which nothing is left to choose goes last, so that the first one tells whether all are done
    found.sort((a, b) => Number(GROUP.test(b)) - Number(GROUP.test(a)));
  }
  const prompts = [...new Set(found.map(reveal))];
  if (prompts.length > MOST_VIDEOS) throw new Error(t("wildcards.many", { most: MOST_VIDEOS }));
  return prompts;
}

/** A prompt as a text that stands for it alone. */
export function escaped(prompt) {
  const isPlain = !GROUP.test(hide(prompt)) && hide(prompt) === prompt;
  return isPlain ? prompt : prompt.replaceAll(/[{}]|(?<=\\)\|/g, (each) => `\\${each}`);
}
