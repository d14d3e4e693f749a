/** Asks for an API key when the server needs one. */

import { key } from "./api.js";
import { $, say } from "./dom.js";
import { t } from "./strings.js";

let waiting = null;

/** Resolves once there is another key to try than the one that was refused. */
export function askForKey(refused) {
  if (key.get() !== refused) return Promise.resolve();
  say($("key-error"), refused ? t("keyWrong") : "");
  waiting ??= new Promise((resolve) => {
    const dialog = $("key");
    const use = (event) => {
      event.preventDefault();
      const given = $("key-input").value.trim();
      if (!given) return;
      key.set(given);
      $("key-form").removeEventListener("submit", use);
      dialog.close();
      waiting = null;
      resolve();
    };
    $("key-form").addEventListener("submit", use);
    // without a key there is nothing to see behind it
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    $("key-input").value = "";
    dialog.showModal();
    $("key-input").focus();
  });
  return waiting;
}
