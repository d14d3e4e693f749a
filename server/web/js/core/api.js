/** Talks to the server: JSON with the key in a header, errors as sentences, and the event stream read with fetch. */

import { storage } from "./storage.js";

/** The address of the page's folder, with the path under which a proxy may serve it. */
export const BASE = new URL("../../..", import.meta.url).href;

/** The name of what the browser keeps: servers under several paths of one host share its store. */
export const stored = (name) => `paddock.${name}${new URL(BASE).pathname.slice(0, -1)}`;

const KEY = stored("key");

export const key = {
  get: () => storage.get(KEY) ?? "",
  set: (value) => storage.set(KEY, value),
  forget: () => storage.remove(KEY),
};

/** An error the server told of; `status` is 0 when it could not be reached, `retryAfter` the seconds until another try. */
export class ApiError extends Error {
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let askForKey = async () => {};

/** What to do when the server wants a key: resolves once there is another to try. */
export function whenKeyIsNeeded(ask) {
  askForKey = ask;
}

async function send(path, options = {}) {
  for (;;) {
    const used = key.get();
    const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) };
    let response;
    try {
      response = await fetch(new URL(path, BASE), { ...options, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError("The server cannot be reached.", 0);
    }
    if (response.status !== 401) return response;
    await askForKey(used);
  }
}

/** GET unless `options` say otherwise; `options.json` is sent as the body. Throws ApiError. */
export async function request(path, { json, ...options } = {}) {
  if (json !== undefined) {
    options = { ...options, body: JSON.stringify(json), headers: { "Content-Type": "application/json" } };
  }
  const response = await send(path, options);
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  throw new ApiError(body?.error?.message ?? `${path}: ${response.status}`, response.status, retryAfter);
}

/** A picture, as an address for an <img>; null if it is gone by now. */
export async function picture(path) {
  const response = await send(path);
  return response.ok ? URL.createObjectURL(await response.blob()) : null;
}

/** Calls `onEvent(name, data)` for each event, and `onOpen` once connected; returns when the stream ends. */
export async function follow({ onOpen, onEvent, signal }) {
  // EventSource cannot send a key
  const response = await send("api/events", { signal });
  if (!response.ok) throw new ApiError(`api/events: ${response.status}`, response.status);
  onOpen();
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/);
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("data")) onEvent(field("event"), JSON.parse(field("data")));
    }
  }
}

/** The address of a row's input, null while the server has none: a row that still awaits it names another host. */
export function inputAddress(row, name) {
  return row[name]?.includes("api/files/inputs/") ? ownAddress(row[name]) : null;
}

/** The address at which the page reaches what a link names: links have the address that others see the server by. */
export function ownAddress(link) {
  const { pathname, search } = new URL(link, BASE);
  return new URL(pathname.replace(/^.*\/(?=api\/)/, "") + search, BASE).href;
}
