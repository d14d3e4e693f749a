/** A video with controls of its own: play, one frame back or forward, position, speed, loop, sound, the whole screen. */

import { ownAddress } from "../core/api.js";
import { h, iconButton, isStill, say } from "../core/dom.js";
import { showIcon } from "../core/icons.js";
import { storage } from "../core/storage.js";
import { t } from "../core/strings.js";

const SOUND = "paddock-sound";
const LOOP = "paddock-loop";
const SPEEDS = [0.25, 0.5, 1, 2];
const POSITIONS = 1000;

const clock = (seconds) => seconds.toFixed(2);

export class Player {
  #fps = 16;
  #id = null;
  #drawing = 0;
  // the frame that was stepped to
  #target = null;

  /** `refresh(id)` is called when a link has expired. */
  constructor(refresh) {
    this.video = h("video", { playsinline: true, preload: "auto", tabindex: 0 });
    this.screen = h("div", { class: "screen" }, this.video);
    this.play = iconButton("play", t("play"), () => this.toggle());
    this.sound = iconButton("muted", t("sound"), () => this.#turnSound());
    this.loop = iconButton("loop", t("loop"), () => this.#turnLoop());
    this.position = h("input", { type: "range", min: 0, max: POSITIONS, value: 0, "aria-label": t("playerTime") });
    this.time = h("span", { class: "time" });
    this.speed = h("select", { "aria-label": t("playbackSpeed"), title: t("playbackSpeed") }, SPEEDS.map((speed) => h("option", { value: speed }, `${speed}×`)));
    this.speed.value = 1;
    const full = iconButton("full", t("fullScreen"), () => this.#fill());
    const step = (sign, label, by) => iconButton(sign, t(label), () => this.step(by));
    this.controls = h("div", { class: "controls" }, this.play, step("back", "frameBack", -1), step("forward", "frameForward", 1),
      this.position, this.time, this.speed, this.loop, this.sound, full);
    this.element = h("div", { class: "player" }, this.screen, this.controls);
    this.#listen(refresh);
  }

  /** The time of the video, in seconds. */
  get at() {
    return this.video.currentTime;
  }

  /** Shows the video of a row: `fps` frames a second, begun at once if it `plays`. */
  show(row, fps, plays) {
    this.#fps = fps || 16;
    this.controls.hidden = false;
    if (this.#id === row.generation_id) return;
    this.#id = row.generation_id;
    const { video } = this;
    this.screen.replaceChildren(video);
    video.setAttribute("aria-label", t("result", { prompt: row.prompt }));
    if (row.thumbnail_url) video.poster = ownAddress(row.thumbnail_url);
    else video.removeAttribute("poster");
    video.loop = this.#isLooped;
    this.loop.setAttribute("aria-pressed", String(video.loop));
    // as its watcher left the last one that can be heard
    const isHeard = row.has_audio && storage.get(SOUND) === "on";
    this.sound.hidden = !row.has_audio;
    video.muted = !isHeard;
    this.#drawSound();
    video.autoplay = plays && !isStill();
    video.src = ownAddress(row.result_url);
    video.playbackRate = video.defaultPlaybackRate = Number(this.speed.value);
  }

  /** Shows something else in place of a video, or nothing. */
  replace(...shown) {
    if (this.#id !== null) {
      this.video.pause();
      this.video.removeAttribute("src");
      this.video.load();
      this.#id = null;
    }
    this.controls.hidden = true;
    this.screen.replaceChildren(...shown);
  }

  toggle() {
    if (this.video.paused) this.video.play().catch(() => {});
    else this.video.pause();
  }

  /** Goes some frames on and stays there. */
  step(frames) {
    const { video } = this;
    video.pause();
    // at its end it would begin anew, although it does not play
    video.loop = false;
    const last = Math.max(0, Math.round(video.duration * this.#fps) - 1);
    // until it is there, the browser may tell the time it left
    const now = video.seeking && this.#target !== null ? this.#target : Math.floor(video.currentTime * this.#fps + 0.01);
    this.#target = Math.min(last, Math.max(0, Math.min(last, now) + frames));
    // the middle of a frame: its edge may show the one before
    video.currentTime = (this.#target + 0.5) / this.#fps;
  }

  /** Does what a key asks for; returns whether it asked for something. */
  press(key) {
    const asked = { " ": () => this.toggle(), ",": () => this.step(-1), ".": () => this.step(1) }[key];
    if (asked === undefined || this.controls.hidden) return false;
    asked();
    return true;
  }

  #listen(refresh) {
    const { video } = this;
    video.addEventListener("click", () => this.toggle());
    for (const each of ["play", "pause"]) video.addEventListener(each, () => this.#drawPlay());
    video.addEventListener("play", () => {
      video.loop = this.#isLooped;
      this.#quieten();
    });
    for (const each of ["loadedmetadata", "timeupdate", "seeking"]) video.addEventListener(each, () => this.#drawTime());
    video.addEventListener("volumechange", () => {
      if (!this.sound.hidden) storage.set(SOUND, video.muted ? "off" : "on");
      this.#drawSound();
    });
    // its link may have expired while the page lay open: a row read anew has a fresh one
    video.addEventListener("error", () => {
      const id = this.#id;
      if (id === null) return;
      this.#id = null;
      refresh(id);
    });
    this.position.addEventListener("input", () => {
      this.#target = null;
      video.pause();
      video.currentTime = (this.position.value / POSITIONS) * (video.duration || 0);
    });
    this.speed.addEventListener("change", () => {
      video.playbackRate = video.defaultPlaybackRate = Number(this.speed.value);
    });
  }

  #drawPlay() {
    const { paused } = this.video;
    showIcon(this.play, paused ? "play" : "pause");
    this.play.setAttribute("aria-label", t(paused ? "play" : "pause"));
    this.play.title = t(paused ? "play" : "pause");
    cancelAnimationFrame(this.#drawing);
    if (!paused) this.#follow();
  }

  #follow() {
    this.#drawTime();
    this.#drawing = requestAnimationFrame(() => this.#follow());
  }

  #drawTime() {
    const { currentTime, duration } = this.video;
    if (!duration) return say(this.time, "");
    this.position.value = (currentTime / duration) * POSITIONS;
    const frames = Math.max(1, Math.round(duration * this.#fps));
    const frame = Math.min(frames, Math.floor(currentTime * this.#fps + 0.01) + 1);
    say(this.time, `${clock(currentTime)} / ${clock(duration)} s · ${frame} / ${frames}`);
    this.position.setAttribute("aria-valuetext", t("frameAt", { time: `${clock(currentTime)} s`, frame, frames }));
  }

  get #isLooped() {
    return storage.get(LOOP) !== "off";
  }

  #turnLoop() {
    storage.set(LOOP, this.#isLooped ? "off" : "on");
    this.video.loop = this.#isLooped;
    this.loop.setAttribute("aria-pressed", String(this.#isLooped));
  }

  #turnSound() {
    this.video.muted = !this.video.muted;
    this.#quieten();
  }

  #drawSound() {
    showIcon(this.sound, this.video.muted ? "muted" : "sound");
    this.sound.setAttribute("aria-pressed", String(!this.video.muted));
  }

  /** Only one is heard at a time. */
  #quieten() {
    if (this.video.muted) return;
    for (const other of document.querySelectorAll("video")) if (other !== this.video && !other.muted) other.pause();
  }

  #fill() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.().catch(() => {});
  }
}
