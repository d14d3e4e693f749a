/** What a comparison is, as the browser and the address remember it: which videos, and how they are looked at. */

import { stored } from "../core/api.js";
import { storage } from "../core/storage.js";
import { RATES } from "./player/transport.js";

const NAME = stored("compare");
const ADDRESS = "#compare";

export const MOST = 4;
export const MODES = ["side", "wipe", "overlay", "difference"];
export const GAINS = [1, 4, 16];

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const isPercent = (value) => typeof value === "number" && value >= 0 && value <= 100;
const areIds = (value) => Array.isArray(value) && value.length <= MOST && value.every((id) => typeof id === "string" && ID.test(id));
const isBoolean = (value) => typeof value === "boolean";

/** What is remembered: what it is at first, and which values it may have. */
const VALUES = {
  ids: [[], areIds],
  mode: [MODES[0], (value) => MODES.includes(value)],
  pair: [[], (value) => areIds(value) && value.length === 2],
  divider: [50, isPercent],
  opacity: [50, isPercent],
  gain: [4, (value) => GAINS.includes(value)],
  rate: [1, (value) => RATES.includes(value)],
  loops: [true, isBoolean],
  only: [false, isBoolean],
};

/** The ids in an address such as `#compare=ID,ID`; null if it names none. */
export function idsOfAddress(hash) {
  const [name, ids] = hash.split("=");
  const found = name === ADDRESS && ids ? [...new Set(ids.split(/,|%2c/i))] : [];
  return found.length > 0 && areIds(found) ? found : null;
}

/** The address of a comparison, relative to the page's. */
export function addressOf(ids) {
  return ids.length > 0 ? `${ADDRESS}=${ids.join(",")}` : ADDRESS;
}

function read() {
  try {
    return JSON.parse(storage.get(NAME) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

/** An object whose properties are remembered when they are set. Anybody may have written what the browser holds. */
export function recalled() {
  const found = read();
  const values = {};
  for (const [name, [standard, isValid]] of Object.entries(VALUES)) values[name] = isValid(found[name]) ? found[name] : standard;
  return new Proxy(values, {
    set(target, name, value) {
      target[name] = value;
      storage.set(NAME, JSON.stringify(target));
      return true;
    },
  });
}
