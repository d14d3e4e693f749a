/** The menu of a tile: one for the page, at the place where it is asked for. */

import { h } from "../core/dom.js";
import { control } from "./actions.js";

const EDGE = 8;

let menu = null;
let opener = null;

function made() {
  menu = h("div", { id: "menu", role: "menu", popover: "auto" });
  menu.addEventListener("click", ({ target }) => {
    const item = target.closest("[role=menuitem]");
    // what asks twice stays
    if (item && !item.dataset.asked) menu.hidePopover();
  });
  menu.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Tab") menu.hidePopover();
    if (!step) return;
    event.preventDefault();
    const items = [...menu.children];
    items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
  });
  menu.addEventListener("toggle", ({ newState }) => {
    if (newState === "closed" && (menu.contains(document.activeElement) || document.activeElement === document.body)) opener?.focus();
  });
  document.body.append(menu);
}

/** Opens the menu with these actions at a point of the window. */
export function openMenu(actions, x, y) {
  if (menu === null) made();
  if (!menu.contains(document.activeElement)) opener = document.activeElement;
  menu.replaceChildren(...actions.map((action) => control(action)));
  for (const item of menu.children) item.setAttribute("role", "menuitem");
  // a pressed button is no item of a menu
  for (const item of menu.children) item.removeAttribute("aria-pressed");
  menu.showPopover();
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(EDGE, Math.min(x, innerWidth - width - EDGE))}px`;
  menu.style.top = `${Math.max(EDGE, Math.min(y, innerHeight - height - EDGE))}px`;
  menu.firstElementChild?.focus();
}
