/** LoRAs in a field of text, NAME or NAME:STRENGTH with semicolons between, and the names that the server offers. */

import { request } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { t } from "../core/strings.js";

const SHOWN = 20;

/** The LoRAs of a text; undefined if it names none. The server refuses what it does not know. */
export function fromText(text) {
  const loras = text
    .split(";")
    .map((part) => part.trim())
    .filter(Boolean)
    .map((part) => {
      const [, name, strength] = part.match(/^(.+):\s*(-?[0-9.]+)$/) ?? [];
      return name === undefined || Number.isNaN(Number(strength)) ? { name: part } : { name, strength: Number(strength) };
    });
  return loras.length ? loras : undefined;
}

export function toText(loras) {
  const of = ({ name, strength }) => (strength === undefined || strength === null ? name : `${name}:${strength}`);
  return Array.isArray(loras) ? loras.map(of).join("; ") : "";
}

/** Names a model's LoRAs beside the field; without any, the field is hidden. */
export async function offerLoras(model) {
  const { data } = await request(`api/ai/loras?model=${encodeURIComponent(model)}`).catch(() => ({ data: [] }));
  if ($("model").value !== model) return;
  const names = data.map(({ name }) => name);
  $("lora-field").hidden = names.length === 0;
  if (!names.length) $("loras").value = "";
  $("lora-names").replaceChildren(...names.map((name) => h("option", { value: name })));
  const others = names.length > SHOWN ? ` … (${names.length})` : "";
  say($("lora-hint"), t("loras.known", { names: names.slice(0, SHOWN).join("; ") + others }));
}
