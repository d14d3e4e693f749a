/** A video that is dropped on the page: the recipe in its file, an MP4 tag, restores the settings that it was made with. */

import { $, h, say } from "../../core/dom.js";
import { t } from "../../core/strings.js";
import { plain } from "../sending/plan.js";
import { OWN_PARAMETERS } from "../settings.js";
import { wrongIn } from "./presetfile.js";

const MOST_BYTES = 256 * 1024;
const MOST_BOXES = 10_000;
const FORMAT = 1;
// the way to the comment, each box in the one before; some have bytes before their content
const WAY = ["moov", "udta", "meta", "ilst", "\u00a9cmt", "data"];
const SKIPPED = { meta: 4, data: 8 };

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The box of a kind between two places of a file, as its content's `[start, end]`; null if there is none. */
async function boxIn(file, kind, start, end) {
  for (let boxes = 0; boxes < MOST_BOXES && end - start >= 8; boxes += 1) {
    const head = new DataView(await file.slice(start, start + 16).arrayBuffer());
    const is64 = head.getUint32(0) === 1 && head.byteLength === 16;
    const length = is64 ? Number(head.getBigUint64(8)) : head.getUint32(0) || end - start;
    const named = String.fromCharCode(...[4, 5, 6, 7].map((at) => head.getUint8(at)));
    if (length < (is64 ? 16 : 8) || length > end - start) return null;
    if (named === kind) return [start + (is64 ? 16 : 8), start + length];
    start += length;
  }
  return null;
}

/** The recipe in a file; null if it has none that can be read. */
export async function recipeIn(file) {
  let [start, end] = [0, file.size];
  for (const kind of WAY) {
    const found = await boxIn(file, kind, start, end);
    if (!found) return null;
    [start, end] = [found[0] + (SKIPPED[kind] ?? 0), found[1]];
  }
  if (end - start > MOST_BYTES) return null;
  try {
    const recipe = JSON.parse(await file.slice(start, end).text());
    return isObject(recipe) && recipe.recipe === FORMAT && isObject(recipe.parameters) ? recipe : null;
  } catch {
    return null;
  }
}

/** What the form is to be filled with, of a recipe: the parameters that its model has here. */
function settingsIn({ parameters, enhanced_prompt: enhanced }, model) {
  const known = [...Object.keys(model?.request_schema.properties ?? {}), ...Object.values(OWN_PARAMETERS)];
  const made = { ...parameters, ...(enhanced !== undefined && { prompt: enhanced }) };
  return Object.fromEntries(Object.entries(made).filter(([name]) => known.includes(name)));
}

/** Takes the videos that are dropped on the page where no field takes them. `apply({model, settings})` fills the form. */
export function takeRecipes(models, apply) {
  // the form's own sentence goes when anything is read again, such as the LoRAs of another model
  const told = h("p", { id: "recipe-told", class: "error", role: "alert" });
  const tell = (sentence, kind = "error") => {
    told.className = kind;
    say(told, sentence);
  };
  $("form-error").before(told);
  $("form").addEventListener("input", () => tell(""));
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    // a field of the form has taken it
    if (event.defaultPrevented && event.target.closest("#form")) return;
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault();
    const recipe = await recipeIn(file);
    if (!recipe) return tell(t("recipe.none"));
    const { model, inputs } = recipe;
    const settings = settingsIn(recipe, models.get(model));
    const sentences = wrongIn({ name: file.name || "recipe", model, settings }, models);
    if (sentences.length) return tell(sentences.join(" "));
    const mode = recipe.parameters.image_mode === "first_frame" ? { image_mode: "first_frame" } : {};
    tell("");
    apply({ model, settings: plain({ ...settings, ...mode }) });
    if (isObject(inputs) && Object.keys(inputs).length) tell(t("recipe.inputs"), "hint");
  });
}
