/** What the browser remembers between visits. Where it refuses, as with all site data blocked, until the page is left. */

const remembered = new Map();

export const storage = {
  get(name) {
    return attempt((kept) => kept.getItem(name)) ?? remembered.get(name);
  },
  set(name, value) {
    remembered.set(name, value);
    attempt((kept) => kept.setItem(name, value));
  },
  remove(name) {
    remembered.delete(name);
    attempt((kept) => kept.removeItem(name));
  },
};

function attempt(action) {
  try {
    return action(localStorage);
  } catch {
    return undefined;
  }
}
