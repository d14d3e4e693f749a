/** Making elements. Children that are strings become text, never HTML: a prompt stays a prompt. */

import { icon } from "./icons.js";

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button of an icon alone; `label` is its name. */
export function iconButton(name, label, onclick) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick }, icon(name));
}

/** A button of an icon and words. */
export function labelled(name, label, onclick) {
  return h("button", { type: "button", onclick }, icon(name), h("span", {}, label));
}

/** Whether its watcher would rather have nothing move. */
export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

const REALLY_MS = 4000;

/**
 * Asks once more before it runs: the first press changes the words of a button, the second within some seconds runs. `say(text)` shows words.
 */
export function askTwice(button, label, question, say, run) {
  if (button.dataset.asked) {
    delete button.dataset.asked;
    say(label);
    return run();
  }
  button.dataset.asked = "yes";
  say(question);
  setTimeout(() => {
    delete button.dataset.asked;
    say(label);
  }, REALLY_MS);
}

export const $ = (id) => document.getElementById(id);

/** Changes a text only if it differs, so that a screen reader is not told the same again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
