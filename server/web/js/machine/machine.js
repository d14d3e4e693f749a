/** The machine at a glance: devices, memory, queue, and which model is loaded where. */

import { ApiError, request } from "../core/api.js";
import { $, h, say } from "../core/dom.js";
import { icon } from "../core/icons.js";
import { gib, t, time } from "../core/strings.js";

const ASK_MS = 4000;

function state(device) {
  if (device.loading !== null) return t("device.loading", { percent: Math.round(device.loading * 100) });
  if (device.drain) return t(`device.${device.drain}`) ?? device.drain;
  if (device.used_elsewhere) return t("device.elsewhere");
  if (device.health !== "healthy") return t(`device.${device.health}`) ?? device.health;
  if (device.busy) return t("device.busy");
  return t(device.model === null ? "device.empty" : "device.ready");
}

const isUsable = (device) => device.health === "healthy" && !device.drain;
const isBusy = (device) => device.busy || device.loading !== null;

/** One device by its name and state; several by how many they are, work, and are not to be used. */
function summary(devices) {
  if (devices.length === 1) return [devices[0].device, state(devices[0])];
  const [busy, unusable] = [devices.filter(isBusy).length, devices.filter((device) => !isUsable(device)).length];
  return [
    t("devices", { count: devices.length }),
    t("devicesBusy", { count: busy }),
    unusable > 0 && t("devicesUnusable", { count: unusable }),
  ].filter(Boolean);
}

const free = (memory) => (memory ? t("free", { free: gib(memory.free), total: gib(memory.total) }) : null);

/** Fires "ready" (detail: what /readyz told) and "trouble" (detail: a sentence). */
export class Machine extends EventTarget {
  constructor(modelName) {
    super();
    this.modelName = modelName;
    this.button = $("machine-button");
    this.words = this.button.querySelector("span");
    this.button.prepend(icon("chip"));
    this.button.addEventListener("click", () => {
      say($("machine-error"), "");
      $("machine").showModal();
      this.ask();
    });
    $("machine-close").addEventListener("click", () => $("machine").close());
    setInterval(() => document.hidden || this.ask(), ASK_MS);
    this.ask();
  }

  /** Whether the server can be reached: what is known of it is old while it cannot. */
  connected(isOpen) {
    this.isConnected = isOpen;
    if (isOpen) return this.ask();
    this.#tell(t("unreachable"), "bad");
  }

  #tell(words, condition) {
    say(this.words, words);
    this.button.title = words;
    this.button.dataset.state = condition;
  }

  async ask() {
    try {
      const ready = await request("readyz");
      this.dispatchEvent(new CustomEvent("ready", { detail: ready }));
      if (this.isConnected !== false) this.#draw(ready);
      if ($("machine").open) this.#drawModels((await request("api/ai/models")).data);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // that nobody answers is told by the event stream
      if (error.status !== 0) this.dispatchEvent(new CustomEvent("trouble", { detail: error.message }));
    }
  }

  #draw(ready) {
    const { devices } = ready;
    const waiting = ready.queued > 0 ? [t("queueLength", { count: ready.queued })] : [];
    this.#tell([...summary(devices), ...waiting].join(" · "), !devices.some(isUsable) ? "bad" : devices.some(isBusy) ? "busy" : "ok");
    const line = (name, value) => value && [h("dt", {}, name), h("dd", {}, value)];
    const lines = [
      ...ready.devices.flatMap((device) => [
        line(t("device"), `${device.device}: ${state(device)}`),
        line(t("holds"), device.model === null ? t("nothing") : this.modelName(device.model)),
        line(t("plan"), device.plan),
        line(t("memory"), free(device.memory)),
        line(t("status.failed"), device.error),
        line("", device.retry_in && t("retryIn", { time: time(device.retry_in) })),
      ]),
      line(t("queue"), ready.queued > 0 && t("queueLength", { count: ready.queued })),
      line(t("hostMemory"), free(ready.host_memory)),
      line(t("disk"), ready.free_bytes && t("freeOnly", { free: gib(ready.free_bytes) })),
    ];
    $("machine-facts").replaceChildren(...lines.filter(Boolean).flat());
    say($("machine-version"), t("version", { version: ready.version }));
  }

  #drawModels(models) {
    const rows = new Map([...$("machine-models").children].map((row) => [row.dataset.id, row]));
    for (const model of models) {
      const row = rows.get(model.id) ?? this.#modelRow(model);
      const [{ status }] = model.deployments;
      say(row.querySelector(".state"), t(`deployment.${status}`) ?? status);
      row.querySelector(".plan").textContent = model.plan ?? "";
      const isLoaded = status === "active" || status === "deploying";
      const button = row.querySelector("button");
      button.dataset.action = isLoaded ? "deactivate" : "activate";
      say(button, t(isLoaded ? "unload" : "load"));
      button.setAttribute("aria-label", `${button.textContent}: ${model.display_name}`);
    }
  }

  #modelRow(model) {
    const act = async ({ target }) => {
      try {
        await request(`api/ai/models/${encodeURIComponent(model.id)}/${target.dataset.action}`, { method: "POST" });
        say($("machine-error"), "");
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        // a banner would be behind the dialog
        say($("machine-error"), error.message);
      }
      this.ask();
    };
    const about = [h("b", {}, model.display_name), h("span", { class: "state" }), h("span", { class: "plan" })];
    const row = h("li", { "data-id": model.id }, h("div", {}, about), h("button", { type: "button", onclick: act }));
    $("machine-models").append(row);
    return row;
  }
}
