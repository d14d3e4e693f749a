/** A grid as one picture: the frames that are seen now, under their headings. */

import { h } from "../core/dom.js";

const [GAP, HEAD, SIDE, TITLE] = [12, 34, 190, 44];
const LARGEST_CELL = 480;

const sidesOf = ({ video }) => [video?.videoWidth || 0, video?.videoHeight || 0];

/** Writes a text on one line, cut where the room ends. */
function write(context, text, x, y, room) {
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > room) shown = `${shown.slice(0, -2)}…`;
  context.fillText(shown, x, y);
}

/** Downloads a grid, with the cells as they are, as a PNG. */
export async function save(grid, cells) {
  const { rows, columns, title } = grid;
  const across = columns ? columns.labels.length : rows.labels.length;
  const down = columns ? rows.labels.length : 1;
  const [widest, highest] = [0, 1].map((side) => Math.max(16, ...cells.map((cell) => sidesOf(cell)[side])));
  const scale = Math.min(1, LARGEST_CELL / Math.max(widest, highest));
  const [width, height] = [Math.max(120, Math.round(widest * scale)), Math.round(highest * scale)];
  const left = columns ? SIDE : GAP;
  const canvas = document.createElement("canvas");
  canvas.width = left + across * (width + GAP);
  canvas.height = TITLE + HEAD + down * (height + GAP);
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#17201b";
  context.font = "600 16px sans-serif";
  write(context, title, GAP, 28, canvas.width - 2 * GAP);
  context.font = "14px sans-serif";
  const named = (line, n) => `${line.title}: ${line.labels[n]}`;
  for (let n = 0; n < across; n += 1) write(context, named(columns ?? rows, n), left + n * (width + GAP), TITLE + 20, width);
  for (let n = 0; columns && n < down; n += 1) write(context, named(rows, n), GAP, TITLE + HEAD + n * (height + GAP) + height / 2, SIDE - 2 * GAP);
  for (const [n, cell] of cells.entries()) {
    const [x, y] = [left + (n % across) * (width + GAP), TITLE + HEAD + Math.floor(n / across) * (height + GAP)];
    if (cell.video?.videoWidth) context.drawImage(cell.video, x, y, Math.round(sidesOf(cell)[0] * scale), Math.round(sidesOf(cell)[1] * scale));
  }
  const file = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const address = URL.createObjectURL(file);
  h("a", { href: address, download: `paddock-grid-${grid.id}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
