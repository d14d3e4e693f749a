/** The images that a video begins and ends with: chosen, dropped, pasted, or the last frame of another video. */

import { $, say } from "./dom.js";
import { t } from "./strings.js";

/** The parameters that are images, the first frame first. */
export const IMAGES = ["input_image", "end_image_url"];

const MAX_BYTES = 20 * 2 ** 20;

/** What stands for the image in the calls of the API tab: its base64 would fill pages. */
export const PLACEHOLDER = "data:image/png;base64,…";

/**
 * One image of the form. `name` is the parameter, `id` what the ids of its elements begin with. The first frame's field
 * also takes what is pasted, and what is dropped on the form beside another such field.
 *
 * Fires "change" when there is another image, or none any more.
 */
export class ImageField extends EventTarget {
  #id;
  #value = null;
  // counts the choices: one that took long to read must not replace a newer one
  #choice = 0;

  constructor(name, id) {
    super();
    this.name = name;
    this.#id = id;
    const { element, file } = this;
    const isFirst = name === IMAGES[0];
    const isHere = ({ target }) => (target.closest(".image-field") ?? (isFirst ? element : null)) === element;
    file.addEventListener("change", () => file.files[0] && this.#read(file.files[0]));
    this.#part("remove").addEventListener("click", () => {
      this.set(null);
      file.focus();
    });
    if (isFirst) document.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    for (const each of ["dragover", "drop"]) {
      $("form").addEventListener(each, (event) => {
        if (this.isOffered && isHere(event) && [...event.dataTransfer.types].includes("Files")) event.preventDefault();
      });
    }
    $("form").addEventListener("drop", (event) => isHere(event) && this.#take(event, event.dataTransfer));
    element.addEventListener("dragenter", () => element.classList.add("over"));
    for (const each of ["dragleave", "drop"]) element.addEventListener(each, () => element.classList.remove("over"));
  }

  #part(name) {
    return $(`${this.#id}-${name}`);
  }

  get element() {
    return this.#part("field");
  }

  get file() {
    return this.#part("file");
  }

  get isOffered() {
    return !this.element.hidden;
  }

  /** Shows the field for a model that takes an image, and takes the image away for others. */
  offer(isTaken) {
    this.element.hidden = !isTaken;
    if (!isTaken) this.set(null);
  }

  /** The image as a data URL; undefined without one. */
  get value() {
    return this.#value ?? undefined;
  }

  set(url) {
    this.#choice += 1;
    if (url === this.#value) return;
    this.#value = url;
    say(this.#part("error"), "");
    this.file.value = "";
    this.#part("chosen").hidden = url === null;
    if (url === null) this.#part("shown").removeAttribute("src");
    else this.#part("shown").src = url;
    this.dispatchEvent(new Event("change"));
  }

  /** The image at an address of this server, or (null) none. */
  async fetch(address) {
    if (address === null) return this.set(null);
    await this.#setLater(dataUrlOf(address));
  }

  #take(event, transfer) {
    const file = [...(transfer?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!file || !this.isOffered) return;
    event.preventDefault();
    this.#read(file);
  }

  async #read(file) {
    if (file.size > MAX_BYTES) return say(this.#part("error"), t("image.large"));
    await this.#setLater(dataUrl(file));
  }

  async #setLater(reading) {
    const choice = ++this.#choice;
    const url = await reading;
    if (choice === this.#choice && this.isOffered) this.set(url);
  }
}

/** The image at an address of this server as a data URL. */
export async function dataUrlOf(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(t("image.gone"));
  return dataUrl(await response.blob());
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

/** The last frame of a video at an address of this server, as a data URL. */
export async function lastFrame(address) {
  const video = document.createElement("video");
  const reached = (name) => new Promise((resolve, reject) => {
    video.addEventListener(name, resolve, { once: true });
    video.addEventListener("error", () => reject(new Error(t("image.frame"))), { once: true });
  });
  video.muted = true;
  video.preload = "auto";
  const loaded = reached("loadeddata");
  video.src = address;
  await loaded;
  const seeked = reached("seeked");
  video.currentTime = Math.max(0, video.duration - 0.001);
  await seeked;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  video.removeAttribute("src");
  return canvas.toDataURL("image/png");
}
