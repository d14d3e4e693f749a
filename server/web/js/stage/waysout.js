/** What a failed generation offers instead: buttons for what its message suggests. */

import { h } from "../core/dom.js";
import { t } from "../core/strings.js";

// "640x368 with 49 frames should fit": what the planner writes where memory ran out
const FITS = /(\d{2,4})x(\d{2,4}) with (\d{1,3}) frames/u;

/** The buttons, none for a generation that has not failed. */
export function waysOut(row, page) {
  if (row.status !== "failed" || !row.error_message) return [];
  const [, width, height, frames] = (row.error_message.match(FITS) ?? []).map(Number);
  const button = (label, run) => h("button", { type: "button", onclick: run }, label);
  const ways = [
    width && button(t("way.size", { width, height, frames }), () => page.use(row, { width, height, num_frames: frames })),
    button(t("way.change"), () => page.use(row)),
  ].filter(Boolean);
  ways[0].classList.add("primary");
  return ways;
}
