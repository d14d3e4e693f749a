/** Sizes to choose from: Wan's own for each shape and resolution, shrunk to what a model takes. Sides in pixels. */

const SIZES = {
  "240p": { "16:9": [416, 240], "4:3": [352, 272], "1:1": [320, 320], "3:4": [272, 352], "9:16": [240, 416] },
  "480p": { "16:9": [832, 480], "4:3": [704, 544], "1:1": [624, 624], "3:4": [544, 704], "9:16": [480, 832] },
  "720p": { "16:9": [1280, 720], "4:3": [1088, 832], "1:1": [960, 960], "3:4": [832, 1088], "9:16": [720, 1280] },
};
// the autoencoder's scale times the transformer's patch: other sizes are cropped from the next larger one
const MULTIPLE = 16;

export const RESOLUTIONS = Object.keys(SIZES);
export const RATIOS = Object.keys(SIZES["480p"]);

/** The size for a shape at a resolution, within a model's largest sides and number of pixels. */
export function sizeOf(resolution, ratio, { maxWidth, maxHeight, maxPixels = Infinity }) {
  const [width, height] = SIZES[resolution][ratio];
  const scale = Math.min(1, maxWidth / width, maxHeight / height, Math.sqrt(maxPixels / (width * height)));
  const side = (length) => Math.max(MULTIPLE, Math.floor((length * scale) / MULTIPLE) * MULTIPLE);
  return scale === 1 ? [width, height] : [side(width), side(height)];
}

/** The shape that is nearest to that of some sides. */
export function shapeOf(width, height) {
  const distance = (ratio) => {
    const [w, h] = SIZES["480p"][ratio];
    return Math.abs(Math.log((w / h) * (height / width)));
  };
  return RATIOS.reduce((best, ratio) => (distance(ratio) < distance(best) ? ratio : best));
}

/** The shape and resolution that a size is, or is nearest to. */
export function nearest(width, height, limits) {
  let best = null;
  for (const resolution of RESOLUTIONS) {
    for (const ratio of RATIOS) {
      const [w, h] = sizeOf(resolution, ratio, limits);
      const distance = Math.abs(Math.log(w / width)) + Math.abs(Math.log(h / height));
      // where shrinking makes two alike, the smaller is meant
      if (best === null || distance < best.distance) best = { resolution, ratio, distance };
    }
  }
  return { ...best, exact: best.distance === 0 };
}
