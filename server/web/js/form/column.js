/** Keeps the whole of the form's column in view on wide screens, whatever is above it: its settings scroll, its footer stays. */

const MARGIN = 16;

/** Fits the column's height to the part of the window that is below its top. */
export function keepInView(column) {
  const fit = () => {
    const top = Math.max(MARGIN, column.getBoundingClientRect().top);
    column.style.setProperty("--room", `${Math.max(320, Math.floor(innerHeight - top - MARGIN))}px`);
  };
  for (const each of ["scroll", "resize"]) addEventListener(each, fit, { passive: true });
  // banners come and go above it
  new ResizeObserver(fit).observe(document.body);
  new ResizeObserver(fit).observe(document.querySelector("main"));
  fit();
}
