/** What the browser remembers of this page. Where it refuses, as with all site data blocked, until the page is left. */

/** Between visits. */
export const storage = store(() => localStorage);

/** Until the tab is closed. */
export const visit = store(() => sessionStorage);

function store(open) {
  const remembered = new Map();
  const attempt = (action) => {
    try {
      return action(open());
    } catch {
      return undefined;
    }
  };
  return {
    get: (name) => attempt((kept) => kept.getItem(name)) ?? remembered.get(name),
    set(name, value) {
      remembered.set(name, value);
      attempt((kept) => kept.setItem(name, value));
    },
    remove(name) {
      remembered.delete(name);
      attempt((kept) => kept.removeItem(name));
    },
  };
}
