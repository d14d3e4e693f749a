/** Icons, drawn in the colour of the text: paths of 24 × 24. */

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M8 5v14M16 5v14",
  back: "M18 6v12l-8-6zM6 6v12",
  forward: "M6 6v12l8-6zM18 6v12",
  loop: "M4 12V9a3 3 0 0 1 3-3h12m-3-3 3 3-3 3M20 12v3a3 3 0 0 1-3 3H5m3 3-3-3 3-3",
  sound: "M4 9.5v5h4l5 4v-13l-5 4zM16.5 9a4.5 4.5 0 0 1 0 6M19 6.5a8 8 0 0 1 0 11",
  muted: "M4 9.5v5h4l5 4v-13l-5 4zM16.5 9.5l5 5M21.5 9.5l-5 5",
  full: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  download: "M12 4v11m-4.5-4.5L12 15l4.5-4.5M4 19.5h16",
  share: "M12 15V4m-4 4 4-4 4 4M7 11H5v9.5h14V11h-2",
  star: "m12 3.5 2.6 5.4 5.9.8-4.3 4.1 1 5.9-5.2-2.8-5.2 2.8 1-5.9L3.5 9.7l5.9-.8z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  use: "M4 7h9m4 0h3M4 17h3m4 0h9M15 4.5v5M9 14.5v5",
  again: "M20 12a8 8 0 1 1-2.4-5.7L20 8.5M20 3.5v5h-5",
  compare: "M4 5h16v14H4zM12 3v18",
  frame: "M4 5h16v14H4zM4 15l5-4 4 3 3-2 4 3",
  proceed: "M4 12h14m-5.5-5.5L18 12l-5.5 5.5M20.5 5v14",
  remove: "M5 7h14M9.5 7V4.5h5V7M7 7l1 12.5h8L17 7M10.5 10.5v6M13.5 10.5v6",
  close: "M6 6l12 12M18 6 6 18",
  details: "M12 11v6M12 7.5h.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  cancel: "M7 7h10v10H7z",
  bell: "M6 16V11a6 6 0 0 1 12 0v5l1.5 2h-15zM10 20.5h4",
  chip: "M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4",
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3A4 4 0 0 0 11 18.7l1-1",
};

/** An icon, which says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `glyph glyph-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Puts another icon into a button. */
export function showIcon(button, name) {
  const shown = button.querySelector(".glyph");
  if (!shown.classList.contains(`glyph-${name}`)) shown.replaceWith(icon(name));
}
