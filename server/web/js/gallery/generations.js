/** The generations the page knows, kept up to date: by events while the stream is open, by asking where it is silent. */

import { follow, request } from "../core/api.js";

const ASK_MS = 3000;
const RECONNECT_MS = [500, 1000, 2000, 4000];
const RECENT = 12;

export const isActive = (row) => row.status === "queued" || row.status === "processing";

/** Fires "row" (detail: the row) when one changes, "removed" (detail: its id), and "connection" (detail: boolean). */
export class Generations extends EventTarget {
  rows = new Map();
  #asking = new Set();

  /** Begins to follow the server, for ever. */
  start() {
    this.#follow();
    setInterval(() => document.hidden || this.#askActive().catch(() => {}), ASK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.#askActive().catch(() => {}));
  }

  /** A page of the history: `{generations, page_number, total_pages, total_entries}`. */
  async page(query) {
    const found = await request(`api/ai/generations?${new URLSearchParams(query)}`);
    // so that what is newer comes later, also within a second
    for (const row of found.generations.toReversed()) this.#put(row);
    return found;
  }

  /** Enqueues; the generations made are put in, newest last. */
  async create(body) {
    const { generations } = await request("api/ai/queue", { method: "POST", json: body });
    await Promise.all(generations.map(({ generation_id }) => this.ask(generation_id)));
    return generations.map(({ generation_id }) => generation_id);
  }

  async cancel(id) {
    await request(`api/ai/queue/${id}`, { method: "DELETE" });
    await this.ask(id);
  }

  async remove(id) {
    await request(`api/ai/generations/${id}`, { method: "DELETE" });
    this.#drop(id);
  }

  /** Reads one row anew. */
  async ask(id) {
    if (this.#asking.has(id)) return;
    this.#asking.add(id);
    try {
      this.#put(await request(`api/ai/queue/${id}`));
    } catch (error) {
      if (error.status !== 404) throw error;
      this.#drop(id);
    } finally {
      this.#asking.delete(id);
    }
  }

  async #askActive() {
    const known = [...this.rows.values()].filter(isActive).map((row) => row.generation_id);
    if (known.length === 0) return;
    const { generations } = await request("api/ai/queue");
    const active = new Set(generations.map((row) => row.generation_id));
    for (const row of generations) this.#put(row);
    // a cancelled one has no event of its own
    await Promise.all(known.filter((id) => !active.has(id)).map((id) => this.ask(id)));
  }

  async #follow() {
    for (let failures = 0; ; failures += 1) {
      try {
        await follow({
          onOpen: () => {
            failures = 0;
            this.dispatchEvent(new CustomEvent("connection", { detail: true }));
            this.page({ page_size: RECENT }).catch(() => {});
            this.#askActive().catch(() => {});
          },
          onEvent: (name, data) => this.#hear(name, data),
        });
      } catch {
        // told below, as an end of the stream is
      }
      this.dispatchEvent(new CustomEvent("connection", { detail: false }));
      await new Promise((resolve) => setTimeout(resolve, RECONNECT_MS[Math.min(failures, RECONNECT_MS.length - 1)]));
    }
  }

  #hear(name, data) {
    const row = this.rows.get(data.generation_id);
    if (name === "media_generation_progress" && row !== undefined) {
      if (isActive(row)) this.#put({ ...row, ...data, queue_position: null });
    } else {
      this.ask(data.generation_id).catch(() => {});
    }
  }

  #put(row) {
    const before = this.rows.get(row.generation_id);
    // an answer that was under way may be older than what is known
    if (before !== undefined && !isActive(before) && isActive(row)) return;
    this.rows.set(row.generation_id, { ...before, ...row });
    this.dispatchEvent(new CustomEvent("row", { detail: this.rows.get(row.generation_id) }));
  }

  #drop(id) {
    this.rows.delete(id);
    this.dispatchEvent(new CustomEvent("removed", { detail: id }));
  }
}
