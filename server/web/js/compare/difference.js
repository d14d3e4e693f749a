/** The absolute difference of two videos, amplified: exact, of frames of the same time, in every browser. */

import { $, say } from "../core/dom.js";
import { t } from "../core/strings.js";

// one video may show a frame before the other does: so many are remembered of each
const REMEMBERED = 4;

/** The last frames that a video has shown. */
class Frames {
  #kept = [];
  #request = null;

  constructor(video, fps, onFrame) {
    this.video = video;
    this.fps = fps;
    this.onFrame = onFrame;
    if (video.readyState >= 2 && !video.seeking) this.#take(video.currentTime);
    this.listen = () => this.#take(video.currentTime);
    // also where frames are told of: not every browser tells of the one that a seek ends at
    video.addEventListener("seeked", this.listen);
    video.addEventListener("loadeddata", this.listen);
    this.#await();
  }

  #await() {
    if (!this.video.requestVideoFrameCallback) return;
    this.#request = this.video.requestVideoFrameCallback((_, { mediaTime }) => {
      this.#take(mediaTime + 0.5 / this.fps);
      this.#await();
    });
  }

  /** Remembers the frame that is shown now; `seconds` lie within it. */
  #take(seconds) {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return;
    const number = Math.floor(seconds * this.fps + 1e-3);
    const same = this.#kept.findIndex((one) => one.number === number);
    const [{ canvas }] = same >= 0 ? this.#kept.splice(same, 1) : this.#kept.length < REMEMBERED ? [{ canvas: document.createElement("canvas") }] : this.#kept.splice(0, 1);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(this.video, 0, 0, width, height);
    this.#kept.push({ number, canvas });
    this.onFrame();
  }

  /** `[{number, seconds, isLast, canvas}]`, the newest first. */
  get newest() {
    const last = Math.round(this.video.duration * this.fps) - 1;
    return this.#kept.map((one) => ({ ...one, seconds: (one.number + 0.5) / this.fps, isLast: one.number >= last })).toReversed();
  }

  close() {
    for (const each of ["seeked", "loadeddata"]) this.video.removeEventListener(each, this.listen);
    if (this.#request !== null) this.video.cancelVideoFrameCallback(this.#request);
  }
}

/** The newest frames of both that are of the same time; a video that has ended stays at its last. */
function pairOf([one, other]) {
  const apart = 0.6 / Math.min(one.fps, other.fps);
  const isPair = (a, b) => Math.abs(a.seconds - b.seconds) < apart || (a.isLast && a.seconds < b.seconds) || (b.isLast && b.seconds < a.seconds);
  for (const a of one.newest) {
    const b = other.newest.find((each) => isPair(a, each));
    if (b) return [a.canvas, b.canvas];
  }
  return null;
}

/** Where a picture lies that is to fit into a canvas. */
function fitted(picture, { width, height }) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const [w, h] = [picture.width * scale, picture.height * scale];
  return [(width - w) / 2, (height - h) / 2, w, h];
}

export class Difference {
  #frames = [];
  #canvas = $("compare-canvas");
  // reading from one that the graphics card draws is slow
  #read = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  #gain = 1;

  /** `isStill()` says whether the frames will stay, so that they are worth being measured. */
  constructor(isStill) {
    this.isStill = isStill;
  }

  /** Shows that of two tracks `{video, fps}`; of none, it stops. */
  show(tracks, gain = 1) {
    this.#gain = gain;
    const isSame = tracks.length === this.#frames.length && tracks.every(({ video }, n) => video === this.#frames[n].video);
    if (isSame) return this.draw();
    for (const frames of this.#frames) frames.close();
    say($("compare-measure"), "");
    this.#canvas.width = this.#canvas.width;
    this.#frames = [];
    const draw = () => this.draw();
    this.#frames = tracks.map(({ video, fps }) => new Frames(video, fps, draw));
    this.draw();
  }

  draw() {
    const pair = this.#frames.length === 2 ? pairOf(this.#frames) : null;
    if (pair === null) return;
    const [one, other] = pair;
    const canvas = this.#canvas;
    // the shape of the frame, in which both have the full height
    const { width, height } = other.width / other.height > one.width / one.height ? other : one;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(one, ...fitted(one, canvas));
    context.globalCompositeOperation = "difference";
    context.drawImage(other, ...fitted(other, canvas));
    if (this.isStill()) this.#measure();
    else say($("compare-measure"), "");
    // each is the sum with itself, bounded at white
    context.globalCompositeOperation = "lighter";
    for (let gain = 1; gain < this.#gain; gain *= 2) context.drawImage(canvas, 0, 0);
  }

  /** Says how much the frames differ, before it is amplified. */
  #measure() {
    const { width, height } = Object.assign(this.#read.canvas, { width: this.#canvas.width, height: this.#canvas.height });
    this.#read.drawImage(this.#canvas, 0, 0);
    const { data } = this.#read.getImageData(0, 0, width, height);
    let [sum, squares, most] = [0, 0, 0];
    for (let at = 0; at < data.length; at += 4) {
      for (let channel = at; channel < at + 3; channel += 1) {
        const value = data[channel];
        sum += value;
        squares += value * value;
        if (value > most) most = value;
      }
    }
    const count = (data.length / 4) * 3;
    if (most === 0) return say($("compare-measure"), t("compare.equal"));
    const psnr = 10 * Math.log10(255 ** 2 / (squares / count));
    say($("compare-measure"), t("compare.measure", { mean: (sum / count).toFixed(2), most, psnr: psnr.toFixed(1) }));
  }
}
