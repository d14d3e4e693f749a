/** How somebody who looks elsewhere is told: the title, the icon of the tab, and a notification if it is allowed. */

import { icon } from "./icons.js";
import { storage } from "./storage.js";
import { t } from "./strings.js";

const NOTIFY = "paddock-notify";
const SIDE = 64;
const READ_MS = 10_000;
const FULL = 2 * Math.PI;

export class Told {
  #icon = document.querySelector("link[rel=icon]");
  #shown = null;
  #blob = null;

  /** `button` turns notifications on and off. */
  constructor(button) {
    this.button = button;
    button.append(icon("bell"));
    button.title = t("notify");
    button.hidden = !("Notification" in window) || !isSecureContext;
    button.addEventListener("click", () => this.#turn());
    this.home = this.#icon.getAttribute("href");
    this.#draw();
  }

  /** `rows` are all that wait or run. */
  progress(rows) {
    const running = rows.find((row) => row.status === "processing");
    const percent = running ? Math.round(running.progress * 100) : null;
    document.title = percent !== null ? t("titleRunning", { percent, count: rows.length }) : rows.length ? t("titleWaiting", { count: rows.length }) : "Paddock Workbench";
    // each tenth is another icon
    const shown = percent === null ? null : Math.floor(percent / 10);
    if (shown !== this.#shown) this.#paint(shown);
    this.#shown = shown;
  }

  /** A generation that was seen to run is over. */
  over(row, open) {
    if (!this.isOn || !document.hidden || row.status === "cancelled") return;
    const title = t(row.status === "succeeded" ? "notifyDone" : "notifyFailed");
    const note = new Notification(title, { body: row.prompt ?? "", tag: row.generation_id, icon: this.home });
    note.addEventListener("click", () => {
      window.focus();
      open(row);
      note.close();
    });
  }

  get isOn() {
    return storage.get(NOTIFY) === "on" && "Notification" in window && Notification.permission === "granted";
  }

  async #turn() {
    const isAllowed = !this.isOn && (await Notification.requestPermission()) === "granted";
    storage.set(NOTIFY, isAllowed ? "on" : "off");
    this.#draw();
  }

  #draw() {
    this.button.setAttribute("aria-pressed", String(this.isOn));
  }

  #paint(tenths) {
    if (tenths === null) {
      this.#icon.setAttribute("href", this.home);
      return;
    }
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const pen = canvas.getContext("2d");
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name) || "#176b4d";
    const arc = (part, style) => {
      pen.beginPath();
      pen.lineWidth = 14;
      pen.strokeStyle = style;
      pen.arc(SIDE / 2, SIDE / 2, 24, -FULL / 4, -FULL / 4 + part * FULL);
      pen.stroke();
    };
    arc(1, "#8a948e");
    arc(Math.max(0.04, tenths / 10), colour("--mark"));
    canvas.toBlob((blob) => {
      if (this.#shown === null) return;
      const before = this.#blob;
      this.#blob = URL.createObjectURL(blob);
      this.#icon.setAttribute("href", this.#blob);
      // a browser may still be reading it
      if (before) setTimeout(() => URL.revokeObjectURL(before), READ_MS);
    });
  }
}
