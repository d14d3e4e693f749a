/** Tabs as WAI-ARIA describes them: arrows move between them, and the address remembers which is open. */

/** `onOpen(name)` is called with the tab's name, now and at every change; returns a function that opens one. */
export function tabs(list, onOpen) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const open = (tab, takesFocus = false) => {
    for (const other of all) {
      const isOpen = other === tab;
      other.setAttribute("aria-selected", String(isOpen));
      other.tabIndex = isOpen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !isOpen;
    }
    if (takesFocus) tab.focus();
    history.replaceState(null, "", `#${tab.dataset.name}`);
    onOpen(tab.dataset.name);
  };
  const named = (name) => all.find((tab) => tab.dataset.name === name);
  list.addEventListener("click", ({ target }) => target.role === "tab" && open(target));
  list.addEventListener("keydown", ({ key, target }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (step) open(all[(all.indexOf(target) + step + all.length) % all.length], true);
  });
  // a tab may keep more behind its name, as #compare=ID,ID
  const asked = () => named(location.hash.slice(1).split("=")[0]);
  const isOpen = (tab) => tab.getAttribute("aria-selected") === "true" && location.hash === `#${tab.dataset.name}`;
  // back from a view above a tab, which is as it was
  window.addEventListener("hashchange", () => asked() && !isOpen(asked()) && open(asked()));
  open(asked() ?? all[0]);
  return (name) => open(named(name));
}
