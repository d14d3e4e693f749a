/** The texts of the page in English and Chinese. */

import { CHINESE } from "../texts/chinese.js";
import { ENGLISH } from "../texts/english.js";
import { storage } from "./storage.js";

const LANGUAGES = { en: ENGLISH, zh: CHINESE };
const CHOICE = "paddock.language";

export const language = storage.get(CHOICE) ?? (navigator.language.startsWith("zh") ? "zh" : "en");

/** Fills in the texts of the elements within one that name them. */
export function translate(root) {
  document.documentElement.lang = language;
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of root.querySelectorAll("[data-hint]")) element.placeholder = t(element.dataset.hint);
  for (const element of root.querySelectorAll("[data-alt]")) element.alt = t(element.dataset.alt);
}

/** Switch the language and reload the page: its texts are rendered only once. */
export function switchLanguage() {
  storage.set(CHOICE, language === "en" ? "zh" : "en");
  location.reload();
}

/** The text of a name with its `{values}` filled in; undefined for an unknown name. */
export function t(name, values = {}) {
  return LANGUAGES[language][name]?.replaceAll(/\{(\w+)\}/g, (_, value) => values[value]);
}

/** A duration in seconds as short text: 8 s, 3 min 20 s, 1 h 5 min. */
export function time(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const units = language === "zh" ? [" 小时", " 分", " 秒"] : [" h", " min", " s"];
  const parts = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const first = parts.findIndex((part) => part > 0);
  if (first < 0) return `0${units[2]}`;
  const shown = parts.map((part, n) => `${part}${units[n]}`).slice(first, first + 2);
  return shown.filter((_, n) => n === 0 || parts[first + n] > 0).join(" ");
}

/** A number of bytes as GiB. */
export const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
