/** The texts of the page in English. */

import { COMPARE } from "./english/compare.js";
import { FORM } from "./english/form.js";
import { PAGE } from "./english/page.js";

export const ENGLISH = { ...PAGE, ...FORM, ...COMPARE };
