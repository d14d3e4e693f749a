/** The keys of a player: Space plays and pauses, "," and "." and the arrows step a frame. */

const STEPS = { ",": -1, ".": 1, ArrowLeft: -1, ArrowRight: 1 };

const TYPED_INTO = "textarea, select, [contenteditable], input:not([type=range], [type=checkbox], [type=radio])";
const USES_SPACE = "button, a, summary, input[type=checkbox], [role=tab]";
// a slider, a choice and the tabs have a meaning of their own for arrows, and what scrolls sideways
const USES_ARROWS = "input[type=range], input[type=radio], [role=slider], [role=tab], .scroll";

/** Whether what has the focus needs the key for itself. */
function isTaken(key, target) {
  if (target.closest(TYPED_INTO)) return true;
  if (key === " ") return target.closest(USES_SPACE) !== null;
  return key.startsWith("Arrow") && target.closest(USES_ARROWS) !== null;
}

/** Lets the keys move `playback` while `isOpen()`. */
export function listenToKeys(playback, isOpen) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || !isOpen()) return;
    if (key !== " " && !(key in STEPS)) return;
    if (document.querySelector("dialog[open]") || isTaken(key, target)) return;
    event.preventDefault();
    if (key !== " ") playback.step(STEPS[key]);
    else if (!event.repeat) playback.toggle();
  });
}
