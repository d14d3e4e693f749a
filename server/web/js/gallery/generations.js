/** The generations the page knows, kept up to date: by events while the stream is open, by asking where it is silent. */

import { follow, request } from "../core/api.js";

const ASK_MS = 3000;
const LINKS = ["result_url", "thumbnail_url", "spritesheet_url"];
const KEPT_MS = 600_000;
const RECONNECT_MS = [500, 1000, 2000, 4000];
/** How many of the newest are read at first. */
export const RECENT = 60;

export const isActive = (row) => row.status === "queued" || row.status === "processing";

/**
 * Fires "row" (detail: the row) when one changes, "removed" (detail: its id), "over" (detail: the row) when one that ran or waited
 * has ended, "asked" (detail: ids) when generations were made by this page, "loaded" when the newest are
 * known, and "connection" (detail: boolean).
 */
export class Generations extends EventTarget {
  rows = new Map();
  #asking = new Map();
  // when the links of a row were read
  #linked = new Map();

  /** Begins to follow the server, for ever. */
  start() {
    this.#follow();
    setInterval(() => document.hidden || this.#askActive().catch(() => {}), ASK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.#askActive().catch(() => {}));
  }

  /** A page of the history: `{generations, next_cursor, total_entries}`. */
  async page(query) {
    const found = await request(`api/ai/generations?${new URLSearchParams(query)}`);
    // so that what is newer comes later, also within a second
    for (const row of found.generations.toReversed()) this.#put(row);
    return found;
  }

  /** Enqueues; the generations made are put in, newest last. */
  async create(body) {
    const { generations } = await request("api/ai/queue", { method: "POST", json: body });
    const ids = generations.map(({ generation_id }) => generation_id);
    await Promise.all(ids.map((id) => this.ask(id)));
    this.dispatchEvent(new CustomEvent("asked", { detail: ids }));
    return ids;
  }

  async cancel(id) {
    await request(`api/ai/queue/${id}`, { method: "DELETE" });
    await this.ask(id);
  }

  async remove(id) {
    await request(`api/ai/generations/${id}`, { method: "DELETE" });
    this.#drop(id);
  }

  /** Changes a generation's favourite mark or tags. */
  async mark(id, change) {
    this.#put(await request(`api/ai/generations/${id}`, { method: "PATCH", json: change }));
  }

  /** The same for many: `change` has favourite, add_tags or remove_tags. */
  async markAll(ids, change) {
    await request("api/ai/generations/marks", { method: "POST", json: { generation_ids: ids, ...change } });
    await Promise.all(ids.map((id) => this.ask(id)));
  }

  /** Deletes those that are over; returns the ids of those that could not be. */
  async removeAll(ids) {
    const { deleted } = await request("api/ai/generations/delete", { method: "POST", json: { generation_ids: ids } });
    for (const id of deleted) this.#drop(id);
    return ids.filter((id) => !deleted.includes(id));
  }

  /** The link of a zip file with the videos of these generations. */
  async archive(ids) {
    const { url } = await request("api/ai/generations/archive", { method: "POST", json: { generation_ids: ids } });
    return url;
  }

  /** Reads one row anew, with links that have not expired. */
  refresh(id) {
    this.#linked.delete(id);
    return this.ask(id);
  }

  /** Reads one row anew; who asks for it meanwhile waits for the same answer. */
  ask(id) {
    if (!this.#asking.has(id)) this.#asking.set(id, this.#read(id).finally(() => this.#asking.delete(id)));
    return this.#asking.get(id);
  }

  async #read(id) {
    try {
      this.#put(await request(`api/ai/queue/${id}`));
    } catch (error) {
      if (error.status !== 404) throw error;
      this.#drop(id);
    }
  }

  async #load() {
    await this.page({ page_size: RECENT });
    this.dispatchEvent(new Event("loaded"));
    await this.#askActive();
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
            this.#load().catch(() => {});
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
    this.rows.set(row.generation_id, { ...before, ...row, ...this.#links(before, row) });
    const now = this.rows.get(row.generation_id);
    this.dispatchEvent(new CustomEvent("row", { detail: now }));
    if (before !== undefined && isActive(before) && !isActive(now)) this.dispatchEvent(new CustomEvent("over", { detail: now }));
  }

  /** Each answer signs its links anew: those that are known are kept for a while, for what the browser has of them. */
  #links(before, row) {
    const isKept = before !== undefined && LINKS.some((name) => before[name]) && Date.now() - this.#linked.get(row.generation_id) < KEPT_MS;
    if (!isKept) {
      this.#linked.set(row.generation_id, Date.now());
      return {};
    }
    return Object.fromEntries(LINKS.filter((name) => before[name] && row[name]).map((name) => [name, before[name]]));
  }

  #drop(id) {
    this.#linked.delete(id);
    this.rows.delete(id);
    this.dispatchEvent(new CustomEvent("removed", { detail: id }));
  }
}
