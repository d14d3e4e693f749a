/** The API key: taken from the address that a QR code holds, or asked for when the server needs another. */

import { isSendable, key, request, whenKeyChanges, whenKeyIsNeeded } from "./api.js";
import { $, say } from "./dom.js";
import { t } from "./strings.js";

const FRAGMENT = "#key=";

let unlock = null;
let unlocked = null;

/** Takes the key from the address, now and whenever one comes, and shows the locked page while the server refuses it. */
export function keepKey() {
  whenKeyIsNeeded(askForKey);
  take(keyFromAddress());
  window.addEventListener("hashchange", ({ oldURL }) => {
    const given = keyFromAddress(oldURL);
    if (given === null) return;
    take(given);
    check();
  });
  window.addEventListener("storage", ({ key: name, newValue }) => {
    if (name !== key.name) return;
    // another tab has another key, or removed it
    if (newValue === null) key.forget();
    else unlock?.();
    check();
  });
  listen();
}

function listen() {
  const dialog = $("key");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  // nobody can prevent a second Escape, and without a key there is nothing to see behind it
  dialog.addEventListener("close", () => unlock && dialog.showModal());
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = $("key-input").value.trim();
    if (!isSendable(given)) return say($("key-error"), t("keyWrong"));
    key.set(given);
    unlock();
  });
  $("key-forget").addEventListener("click", () => {
    key.forget();
    location.reload();
  });
  whenKeyChanges(offerToForget);
  offerToForget();
}

const offerToForget = () => ($("key-forget").hidden = key.get() === "");

/** The key in the address, null without one. It is removed there at once: neither reload nor bookmark may hold it. */
function keyFromAddress(before = "") {
  if (!location.hash.startsWith(FRAGMENT)) return null;
  const written = location.hash.slice(FRAGMENT.length);
  const bare = location.href.slice(0, location.href.indexOf("#"));
  // with the tab that was open, which the address names
  history.replaceState(null, "", before.includes(FRAGMENT) || !before ? bare : before);
  try {
    return decodeURIComponent(written).trim();
  } catch {
    return written;
  }
}

function take(given) {
  if (!isSendable(given) || given === key.get()) return;
  if (unlock !== null || key.get() === "") key.set(given);
  else key.offer(given);
  unlock?.();
}

/** Has the server say whether it accepts the key; the dialog opens if not. */
const check = () => request("api/ai/models").catch(() => {});

/** Resolves once there is another key to try than the one that was refused. */
function askForKey(refused, wasAccepted) {
  if (key.get() !== refused) return Promise.resolve();
  say($("key-error"), refused ? t(wasAccepted ? "keyRevoked" : "keyWrong") : "");
  if (unlock !== null) return unlocked;
  const dialog = $("key");
  unlocked = new Promise((resolve) => {
    unlock = () => {
      unlock = null;
      dialog.close();
      offerToForget();
      resolve();
    };
  });
  for (const each of document.querySelectorAll("audio, video")) each.pause();
  $("key-input").value = "";
  dialog.showModal();
  $("key-input").focus();
  return unlocked;
}
