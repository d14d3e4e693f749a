/** How a generation is doing, in words. */

import { t, time } from "../core/strings.js";
import { awaitsPrompt } from "../form/settings.js";

/** A sentence. */
export function status(row) {
  if (awaitsPrompt(row)) return t("status.awaitsPrompt");
  if (row.status === "queued") {
    if (row.queue_position === null || row.queue_position === undefined) return t("status.queued");
    return row.queue_position === 1 ? t("status.next") : t("status.position", { place: row.queue_position });
  }
  if (row.status === "processing") {
    const parts = [t(`stage.${row.stage}`, row) ?? t("status.processing")];
    if (row.progress > 0) parts.push(percent(row));
    if (row.eta_seconds !== null && row.eta_seconds !== undefined) parts.push(t("left", { time: time(row.eta_seconds) }));
    return parts.join(" · ");
  }
  if (row.status === "succeeded") return t("status.took", { time: time(row.completed_at - row.started_at) });
  return t(`status.${row.status}`);
}

/** A few letters, for where there is no room; none once there is a video. */
export function badge(row) {
  if (row.status === "processing") return percent(row);
  if (row.status === "queued") return row.queue_position ? t("place", { place: row.queue_position }) : t("status.queued");
  return row.result_url ? "" : t(row.status === "succeeded" ? "status.removed" : `status.${row.status}`);
}

const percent = (row) => t("percent", { percent: Math.round(row.progress * 100) });
