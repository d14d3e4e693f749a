/** The grids that this browser has asked this server for, the newest first. */

import { stored } from "../core/api.js";
import { storage } from "../core/storage.js";

const NAME = stored("grids");
const MOST = 20;

/** Each `{id, title, made, rows, columns, cells}`; a cell is a generation's id, or the request that was not taken. */
export function grids() {
  try {
    const kept = JSON.parse(storage.get(NAME) ?? "[]");
    return Array.isArray(kept) ? kept.filter((grid) => grid?.id && Array.isArray(grid.cells) && Array.isArray(grid.rows?.labels)) : [];
  } catch {
    return [];
  }
}

/** Keeps a grid in its place, a new one first. */
export function keep(grid) {
  const others = grids();
  const at = others.findIndex(({ id }) => id === grid.id);
  if (at < 0) others.unshift(grid);
  else others[at] = grid;
  storage.set(NAME, JSON.stringify(others.slice(0, MOST)));
}

export function forget(id) {
  storage.set(NAME, JSON.stringify(grids().filter((grid) => grid.id !== id)));
}
