/** Several videos played as one: less than a frame apart while they play, and on exactly the same frame while they do not. */

// nearer is in step; farther is caught up with by a jump; between them a video plays a little faster or slower
const NEAR_SECONDS = 0.008;
const FAR_SECONDS = 0.2;
const CORRECTION_PER_SECOND = 3;
const MOST_CORRECTION = 0.15;
const LEAST_CHANGE = 0.01;

const HAVE_METADATA = 1;
const HAVE_FUTURE_DATA = 3;
// a video that waits so long for its data is waited for, and a seek no longer than that
const STALLED_MS = 300;
const SEEK_MS = 5000;
const END_SECONDS = 0.01;

/** Settles once a video is where it was told to go, or cannot be. */
function seeked(video) {
  return new Promise((resolve) => {
    const settle = () => {
      clearTimeout(timer);
      for (const each of ["seeked", "error"]) video.removeEventListener(each, settle);
      resolve();
    };
    const timer = setTimeout(settle, SEEK_MS);
    for (const each of ["seeked", "error"]) video.addEventListener(each, settle);
  });
}

/** Fires "change" when the frame, the length, or whether it plays has changed. Frames are counted from 0. */
export class Playback extends EventTarget {
  isPlaying = false;
  frame = 0;
  loops = true;
  /** The video whose sound is heard: it sets the pace, so that its pitch stays. */
  heard = null;
  #rate = 1;
  #tracks = [];
  #known = new WeakSet();
  // names the one that goes on: each start and stop ends the one before
  #run = null;
  #begun = 0;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => document.hidden && this.pause());
  }

  /** What is played: `[{video, fps}]`. The frame stays, where there is one. */
  set(tracks) {
    this.pause();
    this.#tracks = tracks.map((track) => ({ ...track, stalledSince: null }));
    for (const { video } of tracks) {
      if (this.#known.has(video)) continue;
      this.#known.add(video);
      video.addEventListener("loadedmetadata", () => (this.isPlaying ? this.#tell() : this.#settle()));
    }
    this.#settle();
  }

  /** Frames a second of the finest: a step is one of its frames. */
  get fps() {
    return Math.max(1, ...this.#tracks.map(({ fps }) => fps));
  }

  /** Seconds of the longest. */
  get duration() {
    return Math.max(0, ...this.#tracks.map(({ video }) => video.duration || 0));
  }

  get frames() {
    return Math.max(1, Math.round(this.duration * this.fps));
  }

  get rate() {
    return this.#rate;
  }

  set rate(rate) {
    this.#rate = rate;
    for (const { video } of this.#tracks) video.playbackRate = rate;
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  play() {
    if (this.isPlaying || this.#tracks.length === 0) return;
    if (this.frame >= this.frames - 1) this.frame = 0;
    this.isPlaying = true;
    this.#begin();
  }

  pause() {
    if (!this.isPlaying) return;
    this.isPlaying = false;
    this.#run = null;
    for (const { video } of this.#tracks) video.pause();
    this.#settle();
  }

  /** Goes to a frame, and on from there if it plays. */
  seek(frame) {
    this.frame = Math.min(Math.max(0, Math.round(frame)), this.frames - 1);
    if (this.isPlaying) this.#begin();
    else this.#settle();
  }

  /** Goes so many frames on or back, and stops there. */
  step(frames) {
    this.pause();
    this.seek(this.frame + frames);
  }

  #settle() {
    if (this.duration > 0) this.frame = Math.min(this.frame, this.frames - 1);
    this.#align();
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }

  /** Puts every video on the frame; settles when all are there. */
  #align() {
    // the middle of a frame is away from the bounds at which browsers round differently
    const seconds = (this.frame + 0.5) / this.fps;
    const seeks = this.#tracks.map(({ video, fps }) => {
      if (video.readyState < HAVE_METADATA || video.error !== null) return null;
      const place = Math.max(0, Math.min(seconds, video.duration - 0.5 / fps));
      if (Math.abs(video.currentTime - place) > 1e-4) video.currentTime = place;
      return video.seeking ? seeked(video) : null;
    });
    return Promise.all(seeks);
  }

  async #begin() {
    const run = (this.#run = Symbol("run"));
    for (const { video } of this.#tracks) video.pause();
    this.#tell();
    await this.#align();
    if (run !== this.#run) return;
    this.#begun = performance.now();
    for (const track of this.#tracks) {
      track.stalledSince = null;
      track.video.playbackRate = this.rate;
      if (!this.#isOver(track, track.video.currentTime)) track.video.play().catch(() => {});
    }
    this.#next(run);
  }

  #next(run) {
    requestAnimationFrame((now) => run === this.#run && this.#tick(run, now));
  }

  /** Whether a video has nothing after its frame at this time, or cannot be read. */
  #isOver({ video, fps }, seconds) {
    return video.ended || video.error !== null || seconds >= video.duration - 0.6 / fps;
  }

  get #leader() {
    const longest = this.#tracks.reduce((one, other) => (other.video.duration > one.video.duration ? other : one));
    return this.#tracks.find((track) => track.video === this.heard && !track.video.ended) ?? longest;
  }

  #tick(run, now) {
    const { video: leader } = this.#leader;
    const seconds = leader.currentTime;
    if (this.duration > 0 && (leader.ended || seconds >= this.duration - END_SECONDS)) return this.#end();
    // by a media key, say, or because the browser lets nothing play
    if (leader.paused && performance.now() - this.#begun > STALLED_MS) return this.pause();
    if (this.#tracks.some((track) => this.#isStalled(track, now))) return this.#hold(run);
    for (const track of this.#tracks) if (track.video !== leader && !this.#isOver(track, seconds)) this.#follow(track.video, seconds);
    const frame = Math.min(this.frames - 1, Math.floor(seconds * this.fps + 1e-3));
    if (frame !== this.frame) {
      this.frame = frame;
      this.#tell();
    }
    this.#next(run);
  }

  #isShort(track) {
    return track.video.readyState < HAVE_FUTURE_DATA && !this.#isOver(track, track.video.currentTime);
  }

  #isStalled(track, now) {
    const isShort = this.#isShort(track);
    track.stalledSince = isShort ? (track.stalledSince ?? now) : null;
    return isShort && now - track.stalledSince > STALLED_MS;
  }

  /** Stops those that could go on until the others have data, and starts all together. */
  #hold(run) {
    for (const track of this.#tracks) if (!this.#isShort(track)) track.video.pause();
    const wait = () => {
      if (run !== this.#run) return;
      if (this.#tracks.some((track) => this.#isShort(track))) requestAnimationFrame(wait);
      else this.#begin();
    };
    wait();
  }

  #follow(video, seconds) {
    const behind = seconds - video.currentTime;
    if (Math.abs(behind) > FAR_SECONDS) {
      if (!video.seeking) video.currentTime = seconds;
      return;
    }
    const most = MOST_CORRECTION * Math.sign(behind);
    const wanted = Math.abs(behind) < NEAR_SECONDS ? 0 : behind * CORRECTION_PER_SECOND;
    const rate = this.rate * (1 + (Math.abs(wanted) > MOST_CORRECTION ? most : wanted));
    if (rate === this.rate || Math.abs(rate - video.playbackRate) > LEAST_CHANGE) video.playbackRate = rate;
  }

  #end() {
    this.frame = this.loops ? 0 : this.frames - 1;
    if (this.loops) this.#begin();
    else this.pause();
  }
}
