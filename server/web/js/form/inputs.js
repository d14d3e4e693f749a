/** What a video begins and ends with, is made of or heard with: chosen, dropped, pasted, or taken from another generation. */

import { inputAddress, request } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

/** The parameters that are images, the first frame first. */
export const IMAGES = ["input_image", "end_image_url"];

/** The parameter that is a video. */
export const VIDEO = "input_video";

/** The parameter that is a sound. */
export const AUDIO = "input_audio";

/** The parameters that are inputs. */
export const INPUTS = [...IMAGES, VIDEO, AUDIO];

const KINDS = { [VIDEO]: "video", [AUDIO]: "audio" };

const MAX_MB = { image: 20, video: 100, audio: 20 };

/** What stands for an input in the calls of the API tab: its base64 would fill pages. */
const PLACEHOLDERS = { image: "data:image/png;base64,…", video: "upload:…", audio: "upload:…" };

/**
 * One input of the form. `name` is the parameter, `id` what the ids of its elements begin with. The first frame's field
 * also takes what is pasted, and with those of the video and the sound what is dropped beside another such field.
 *
 * Fires "change" when there is another file, or none any more; and "chosen" when a person has chosen one.
 */
export class InputField extends EventTarget {
  #id;
  #kind;
  #value = null;
  #shown = null;
  // counts the choices: one that took long to read must not replace a newer one
  #choice = 0;
  #isOpen = false;
  isOffered = false;

  constructor(name, id) {
    super();
    this.name = name;
    this.#id = id;
    this.#kind = KINDS[name] ?? "image";
    if (name === VIDEO) playing(this.#part("shown"));
    const { element, file } = this;
    const isFirst = name === IMAGES[0];
    const isMain = isFirst || name in KINDS;
    const isHere = ({ target }) => (target.closest(".image-field") ?? (isMain ? element : null)) === element;
    file.addEventListener("change", () => file.files[0] && this.#read(file.files[0]));
    this.#part("remove").addEventListener("click", () => {
      this.#isOpen = true;
      this.set(null);
      file.focus();
    });
    this.#part("add").addEventListener("click", () => {
      this.#isOpen = !this.#isOpen;
      this.#show();
      if (this.#isOpen) file.click();
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

  /** Offers the field for a model that takes such an input, and takes it away for others. */
  offer(isTaken) {
    this.isOffered = isTaken;
    if (!isTaken) this.set(null);
    this.#show();
  }

  /** Folds the field away while it is empty. */
  close() {
    this.#isOpen = false;
    this.#show();
  }

  #show() {
    const isEmpty = this.#value === null;
    this.element.hidden = !this.isOffered || (isEmpty && !this.#isOpen);
    this.#part("add").hidden = !this.isOffered || !isEmpty;
    this.#part("add").setAttribute("aria-expanded", String(this.#isOpen));
    this.element.classList.toggle("chosen", !isEmpty);
  }

  /** The file; undefined without one. */
  get value() {
    return this.#value ?? undefined;
  }

  /** What stands for the file in a call that is only shown. */
  get placeholder() {
    return PLACEHOLDERS[this.#kind];
  }

  /** Its width and height as soon as they are known; null if it cannot be shown. */
  async sides() {
    const shown = this.#part("shown");
    if (this.#kind === "image") {
      await shown.decode().catch(() => {});
    } else if (!shown.videoWidth) {
      await new Promise((resolve) => {
        for (const each of ["loadedmetadata", "error"]) shown.addEventListener(each, resolve, { once: true });
      });
    }
    const [width, height] = this.#kind === "image" ? [shown.naturalWidth, shown.naturalHeight] : [shown.videoWidth, shown.videoHeight];
    return width && height ? [width, height] : null;
  }

  set(file) {
    this.#choice += 1;
    if (file === this.#value) return;
    this.#value = file;
    this.#show();
    say(this.#part("error"), "");
    this.file.value = "";
    this.#part("chosen").hidden = file === null;
    if (this.#shown) URL.revokeObjectURL(this.#shown);
    this.#shown = file === null ? null : URL.createObjectURL(file);
    if (file === null) this.#part("shown").removeAttribute("src");
    else this.#part("shown").src = this.#shown;
    this.dispatchEvent(new Event("change"));
  }

  /** The file at an address of this server, or (null) none. */
  async fetch(address) {
    if (address === null) return this.set(null);
    const choice = ++this.#choice;
    const file = await fileAt(address);
    if (choice === this.#choice && this.isOffered) this.set(file);
  }

  #take(event, transfer) {
    const file = [...(transfer?.files ?? [])].find((each) => each.type.startsWith(`${this.#kind}/`));
    if (!file || !this.isOffered) return;
    event.preventDefault();
    this.#read(file);
  }

  #read(file) {
    const limit = MAX_MB[this.#kind];
    if (file.size > limit * 2 ** 20) {
      this.#isOpen = true;
      this.#show();
      return say(this.#part("error"), t("input.large", { limit }));
    }
    this.set(file);
    this.dispatchEvent(new Event("chosen"));
  }
}

/** What shows an input by its address. */
function shownInput(name, src) {
  if (name === AUDIO) return h("audio", { class: "input", src, "aria-label": t(`title.${name}`), preload: "none", controls: true, "data-name": name });
  if (name !== VIDEO) return h("img", { class: "input", src, alt: t(`title.${name}`), loading: "lazy", "data-name": name });
  const about = { "aria-label": t(`title.${name}`), preload: "metadata", loop: true, playsinline: true, tabindex: 0, "data-name": name };
  return playing(h("video", { class: "input", src, ...about }));
}

/** Lets a small video play while it is pointed at or has the focus: its controls would hide the picture. */
function playing(video) {
  video.muted = true;
  for (const each of ["mouseenter", "focus"]) video.addEventListener(each, () => video.play().catch(() => {}));
  for (const each of ["mouseleave", "blur"]) video.addEventListener(each, () => video.pause());
  return video;
}

/** What shows the inputs of a row, without those that `holder` shows already. */
export function inputsOf(row, holder = null) {
  const isNew = (name) => inputAddress(row, name) && !holder?.querySelector(`[data-name=${name}]`);
  return INPUTS.filter(isNew).map((name) => shownInput(name, inputAddress(row, name)));
}

/** The file at an address of this server. */
export async function fileAt(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(t("image.gone"));
  return response.blob();
}

/** What names a file in a request. */
export async function sent(file) {
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  const { id } = await request("api/ai/uploads", { method: "POST", body: file, headers });
  return id;
}

/** The frame of a video at an address of this server at a time, or its last one, as an image file. */
export async function frameAt(address, seconds = Infinity) {
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
  video.currentTime = Math.max(0, Math.min(seconds, video.duration - 0.001));
  await seeked;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  video.removeAttribute("src");
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
