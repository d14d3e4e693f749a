/** How large the compared videos are: as large as fits into the window with the transport in view. */

const GAP = 14;
// what is below each picture: its caption, which has more lines where it is narrow, or at least the first of them
const CAPTION = 64;
const NARROW_CAPTION = 90;
const CAPTION_LINE = 44;
const NARROW = 560;
// under two pictures on each other, captions may be wider than these
const LEAST_CAPTION_WIDTH = 260;
// where the rest of the page leaves less of the window, it is scrolled away
const LEAST_SHARE = 0.5;
const LEAST_SHARE_OF_PORTRAIT = 0.95;
const ORPHAN = 0.8;

/** The columns of a grid of `count` boxes with this ratio of width to height, and the width of each. */
function gridOf(count, ratio, width, height) {
  const caption = width < NARROW ? NARROW_CAPTION : CAPTION;
  const choices = Array.from({ length: count }, (_, n) => {
    const columns = n + 1;
    const rows = Math.ceil(count / columns);
    const widest = (width - GAP * (columns - 1)) / columns;
    const highest = (height - GAP * (rows - 1)) / rows - caption;
    const box = Math.min(widest, Math.max(highest, 0) * ratio);
    // a row that is filled looks better than one with a margin, and than one with a hole
    const score = box * (1 + (box * columns) / width) * (count % columns ? ORPHAN : 1);
    return { columns, box, score };
  });
  return choices.reduce((best, one) => (one.score > best.score ? one : best));
}

/** Sets the sizes of the boxes in `element`, above `transport`: `count` beside each other, or (`isPair`) two on each other. */
export function layOut(element, transport, count, ratio, isPair) {
  const width = element.parentElement.clientWidth;
  if (width === 0 || count === 0) return;
  const above = element.getBoundingClientRect().top + window.scrollY;
  const below = transport.offsetHeight + 2 * GAP;
  const { innerWidth, innerHeight } = window;
  const share = innerHeight > innerWidth ? LEAST_SHARE_OF_PORTRAIT : LEAST_SHARE;
  const height = Math.max(innerHeight * share, innerHeight - above - below);
  const { columns, box } = isPair ? { columns: 2, box: Math.min(width, (height - CAPTION_LINE) * ratio) } : gridOf(count, ratio, width, height);
  const column = isPair ? Math.max((box - GAP) / 2, Math.min((width - GAP) / 2, LEAST_CAPTION_WIDTH)) : box;
  element.style.setProperty("--columns", columns);
  element.style.setProperty("--column", `${Math.floor(column)}px`);
  element.style.setProperty("--box", `${Math.floor(box)}px`);
  element.style.setProperty("--ratio", ratio);
}
