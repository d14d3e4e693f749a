/** The share sheet of phones and tablets: a video goes to another app as a file. */

import { ownAddress } from "../core/api.js";
import { t } from "../core/strings.js";
import { fileAt } from "../form/inputs.js";

const TYPE = "video/mp4";
const EXAMPLE = new File([""], "video.mp4", { type: TYPE });

// the file that was fetched last: where that took long, a second press is needed
let ready = { id: null, file: null };

/** How a video is called on the disk of who downloads or shares it. */
export const fileName = (row) => `paddock-${row.generation_id.slice(0, 8)}.mp4`;

/** Whether this is a touch screen with a share sheet that takes videos: browsers have one on `localhost` and over HTTPS. */
export const canShare = () => matchMedia("(pointer: coarse)").matches && Boolean(navigator.canShare?.({ files: [EXAMPLE] }));

/** Opens the share sheet with the video of a row. Throws an error with a sentence if it does not open. */
export async function share(row) {
  const id = row.generation_id;
  if (ready.id !== id) ready = { id, file: new File([await fileAt(ownAddress(row.result_url))], fileName(row), { type: TYPE }) };
  try {
    await navigator.share({ files: [ready.file] });
  } catch (error) {
    // its user closed it
    if (error.name === "AbortError") return;
    // a browser opens it only within seconds of a press
    throw new Error(t(error.name === "NotAllowedError" ? "shareAgain" : "shareFailed"));
  }
}
