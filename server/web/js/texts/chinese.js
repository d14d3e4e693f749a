/** The texts of the page in Chinese. */

import { COMPARE } from "./chinese/compare.js";
import { FORM } from "./chinese/form.js";
import { PAGE } from "./chinese/page.js";

export const CHINESE = { ...PAGE, ...FORM, ...COMPARE };
