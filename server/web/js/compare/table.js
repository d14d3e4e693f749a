/** The settings of the compared videos, those that differ first. */

import { $, h, say } from "../core/dom.js";
import { t } from "../core/strings.js";
import { toText } from "../form/fields/loras.js";
import { settingsOf, title } from "../form/settings.js";
import { clamped } from "./clamp.js";
import { letter } from "./figures.js";

// what is longer is read under the picture or in the table
const SHORT = 24;

/** The settings of rows, and which of them differ. */
export class Differences {
  /** `schemaOf(row)` gives the request schema of a row's model. */
  constructor(rows, schemaOf) {
    this.settings = rows.map((row) => {
      const { loras, ...others } = settingsOf(row, schemaOf(row));
      const { model_name: model, enhanced_prompt } = row;
      return { model, ...others, ...(loras && { loras: toText(loras) }), ...(enhanced_prompt && { enhanced_prompt }) };
    });
    const names = [...new Set(this.settings.flatMap((one) => Object.keys(one)))];
    this.differing = names.filter((name) => new Set(this.settings.map((one) => one[name])).size > 1);
    this.names = [...this.differing, ...names.filter((name) => !this.differing.includes(name))];
    this.properties = rows.length > 0 ? schemaOf(rows[0]).properties : {};
  }

  heading(name) {
    return name === "model" ? t("model") : title(name, this.properties[name] ?? {});
  }

  /** What the row in a place has that others have not, in a few words. */
  summary(place) {
    const one = this.settings[place];
    const { width, height, num_frames: frames, num_inference_steps: steps, guidance_scale: guidance, seed } = one;
    const words = {
      width: `${width} × ${height}`,
      height: this.differing.includes("width") ? "" : `${width} × ${height}`,
      num_frames: t("frames", { frames }),
      num_inference_steps: t("steps", { steps }),
      guidance_scale: t("guidance", { guidance }),
      seed: t("seed", { seed }),
    };
    const isShort = (name) => one[name] !== undefined && String(one[name]).length <= SHORT && name !== "prompt";
    const said = this.differing.filter(isShort).map((name) => words[name] ?? `${this.heading(name)} ${one[name]}`);
    return said.filter(Boolean).join(" · ");
  }

  /** Fills the table, with only what differs or with everything. */
  show(isOnly) {
    const shown = isOnly ? this.differing : this.names;
    say($("compare-same"), this.differing.length > 0 || this.settings.length < 2 ? "" : t("same"));
    const cell = (value) => (String(value ?? "").length > SHORT ? clamped(String(value)) : String(value ?? "").trim() || "—");
    $("compare-table").parentElement.style.setProperty("--count", this.settings.length);
    $("compare-table").replaceChildren(
      h("tr", {}, h("th", { scope: "col" }, t("parameter")), this.settings.map((_, place) => h("th", { scope: "col" }, letter(place)))),
      ...shown.map((name) =>
        h(
          "tr",
          { class: this.differing.includes(name) ? "differs" : "" },
          h("th", { scope: "row" }, this.heading(name)),
          this.settings.map((one) => h("td", {}, cell(one[name]))),
        ),
      ),
    );
    $("compare-table").closest(".scroll").hidden = shown.length === 0;
  }
}
