/** Sends requests one after the other, and tells how many were sent if the server takes no more. */

import { t, time } from "../../core/strings.js";
import { sent } from "../inputs.js";

/** The inputs as requests name them: files are sent once, whatever the number of requests. */
export async function uploaded(inputs) {
  const named = Object.entries(inputs).map(async ([name, value]) => [name, typeof value === "string" ? value : await sent(value)]);
  return Object.fromEntries(await Promise.all(named));
}

/** Why a request was not taken, and when another may be. */
export function refusal(error) {
  return error.retryAfter ? `${error.message} ${t("sent.later", { time: time(error.retryAfter) })}` : error.message;
}

/** Enqueues all bodies in order, and calls `onSent(ids, index)` after each. Throws an error with a sentence. */
export async function sendAll(generations, bodies, onSent = () => {}) {
  for (const [index, body] of bodies.entries()) {
    try {
      onSent(await generations.create(body), index);
    } catch (error) {
      const reason = refusal(error);
      throw new Error(bodies.length > 1 ? t("sent.some", { sent: index, total: bodies.length, reason }) : reason);
    }
  }
}
