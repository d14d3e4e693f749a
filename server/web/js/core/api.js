/** Talks to the server: JSON with the key in a header, errors as sentences, and the event stream read with fetch. */

import { storage } from "./storage.js";
import { t } from "./strings.js";

/** The address of the page's folder, with the path under which a proxy may serve it. */
export const BASE = new URL("../../..", import.meta.url).href;

/** The name of what the browser keeps: servers under several paths of one host share its store. */
export const stored = (name) => `paddock.${name}${new URL(BASE).pathname.slice(0, -1)}`;

const KEY = stored("key");

// what a header takes
const SENDABLE = /^[\x21-\x7e]([\x20-\x7e]{0,1000}[\x21-\x7e])?$/;
export const isSendable = (value) => SENDABLE.test(value ?? "");

/** A key that came with the address, while another is stored: it replaces that one once the server accepts it. */
let offered = null;
/** The key of the last answer, null before the first one. */
let accepted = null;

export const key = {
  name: KEY,
  get: () => offered ?? (isSendable(storage.get(KEY)) ? storage.get(KEY) : ""),
  set(value) {
    offered = null;
    storage.set(KEY, value);
  },
  /** Tries a key with the next request; if it is refused the stored one stays. */
  offer: (value) => (offered = value),
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
let waiting = 0;

/** What to do when the server wants a key: `ask(refused, wasAccepted)` resolves once there is another to try. */
export function whenKeyIsNeeded(ask) {
  askForKey = async (...given) => {
    waiting += 1;
    await ask(...given);
    waiting -= 1;
  };
}

const changes = new EventTarget();

/** Calls `listener` when the server has accepted another key than before: what is shown belongs to the former one. */
export const whenKeyChanges = (listener) => changes.addEventListener("change", listener);

function accept(used, path) {
  if (used === offered) key.set(used);
  if (used === accepted || used !== key.get()) return;
  const isOther = accepted !== null;
  accepted = used;
  if (!isOther) return;
  if (path !== STREAM) stream?.abort();
  changes.dispatchEvent(new Event("change"));
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
      throw new ApiError(t("told.unreachable"), 0);
    }
    if (response.status !== 401) {
      // another key has been accepted meanwhile, whose answer differs
      const isOld = used !== key.get() && used !== accepted && !options.method;
      if (!isOld) {
        // other paths need no key
        if (response.ok && path.startsWith("api/")) accept(used, path);
        return response;
      }
      await response.body?.cancel();
    } else if (used === offered) offered = null;
    else await askForKey(used, used === accepted);
  }
}

const asked = new Map();

/** GET unless `options` say otherwise; `options.json` is sent as the body. Throws ApiError. */
export function request(path, options = {}) {
  if (options.method) return ask(path, options);
  // what is polled must not pile up behind the dialog that asks for a key
  if (waiting > 0 && asked.has(path)) return asked.get(path);
  const answer = ask(path, options).finally(() => asked.get(path) === answer && asked.delete(path));
  asked.set(path, answer);
  return answer;
}

async function ask(path, { json, ...options }) {
  if (json !== undefined) {
    options = { ...options, body: JSON.stringify(json), headers: { "Content-Type": "application/json" } };
  }
  const response = await send(path, options);
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const { type, message = `${path}: ${response.status}` } = body?.error ?? {};
  // the server's sentences are English: in another language the page says first what kind of error it is
  throw new ApiError(t(`told.${type}`, { sentence: message }) ?? message, response.status, retryAfter);
}

/** A picture, as an address for an <img>; null if it is gone by now. */
export async function picture(path) {
  const response = await send(path);
  return response.ok ? URL.createObjectURL(await response.blob()) : null;
}

const STREAM = "api/events";
let stream = null;

/** Calls `onEvent(name, data)` for each event, and `onOpen` once connected; returns when the stream ends. */
export async function follow(options) {
  for (;;) {
    stream = new AbortController();
    const { signal } = stream;
    try {
      return await read({ ...options, signal });
    } catch (error) {
      // its key is no longer the page's
      if (!signal.aborted) throw error;
    }
  }
}

async function read({ onOpen, onEvent, signal }) {
  // EventSource cannot send a key
  const response = await send(STREAM, { signal });
  if (!response.ok) throw new ApiError(`${STREAM}: ${response.status}`, response.status);
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
