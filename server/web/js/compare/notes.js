/** What keeps frames of videos from corresponding, in sentences. */

import { t } from "../core/strings.js";

const SAME_RATIO = 0.01;

/** `tracks` are `{video, fps, letter}`, each compared with the first. */
export function notesOn(tracks) {
  const [first, ...others] = tracks.filter(({ video }) => video.videoWidth > 0);
  const notes = tracks.filter(({ video }) => video.error !== null).map(({ letter }) => t("compare.broken", { letter }));
  for (const other of others) {
    const ratios = [first, other].map(({ video }) => video.videoWidth / video.videoHeight);
    const letters = { one: first.letter, other: other.letter };
    if (Math.abs(Math.log(ratios[0] / ratios[1])) > SAME_RATIO) notes.push(t("compare.shapes", letters));
    else if (first.video.videoWidth !== other.video.videoWidth) notes.push(t("compare.sizes", letters));
    if (first.fps !== other.fps) notes.push(t("compare.rates", { ...letters, fps: first.fps, otherFps: other.fps }));
  }
  const longest = Math.max(0, ...tracks.map(({ video }) => video.duration || 0));
  for (const { video, fps, letter } of tracks) {
    if (video.duration < longest - 0.6 / fps) notes.push(t("compare.shorter", { letter, seconds: video.duration.toFixed(2) }));
  }
  return notes;
}
