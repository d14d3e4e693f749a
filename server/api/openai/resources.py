"""Serializes generations and models into OpenAI's objects."""

from typing import Any

from pipelines.models.catalogue import CatalogueEntry
from server.api.openai.schemas import VideoStatus
from server.core.events import Live
from server.core.generation import Generation, Status
from server.service.requests.echo import REMIXED_FROM
from server.service.requests.finished import frames_in
from server.service.requests.values.numbers import as_integer
from server.service.service import Service

_STATUSES: dict[Status, VideoStatus] = {
    Status.QUEUED: "queued",
    Status.PROCESSING: "in_progress",
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}
"""OpenAI has no word for a cancelled video: it has failed with an error of the code `cancelled`."""

_DAY = 86_400


def video(service: Service, generation: Generation, live: Live | None = None) -> dict[str, Any]:
    """Return an `OpenaiVideo`."""
    progress = generation.progress if live is None else live.progress
    prompt = generation.parameters.get("prompt")
    width, height, seconds = _shape(service, generation)
    return {
        "id": generation.id,
        "object": "video",
        "model": generation.model_name,
        "status": _STATUSES[generation.status],
        "progress": 100 if generation.status is Status.SUCCEEDED else min(99, int(100 * progress)),
        "created_at": int(generation.enqueued_at),
        "completed_at": None if generation.completed_at is None else int(generation.completed_at),
        "expires_at": _expiry(service, generation),
        "prompt": prompt if isinstance(prompt, str) else None,
        "size": f"{width}x{height}",
        "seconds": f"{seconds:g}",
        "remixed_from_video_id": generation.parameters.get(REMIXED_FROM),
        "error": _error(generation),
    }


def model(entry: CatalogueEntry) -> dict[str, Any]:
    """Return an `OpenaiModel`."""
    return {"id": entry.id, "object": "model", "created": entry.api.created, "owned_by": entry.api.owned_by}


def _shape(service: Service, generation: Generation) -> tuple[int, int, float]:
    """Width and height in pixels and length in seconds; as they were asked for if the parameters are invalid."""
    params, entry = generation.params, service.catalogue.get(generation.model)
    if params is not None:
        # a model that has left the catalogue took its rate with it
        seconds = 0.0 if entry is None else frames_in(generation) / entry.model.fps
        return params.width, params.height, round(seconds, 3)
    asked = {name: as_integer(generation.parameters.get(name)) for name in ("width", "height", "num_frames")}
    default = (0, 0, 0) if entry is None else entry.api.size("default")
    width, height, frames = (
        own if value is None else value for value, own in zip(asked.values(), default, strict=True)
    )
    return width, height, 0.0 if entry is None else round(frames / entry.model.fps, 3)


def _expiry(service: Service, generation: Generation) -> int | None:
    days, ended = service.settings.retention_days, generation.completed_at
    if not days or ended is None or generation.favourite:
        return None
    return int(ended + days * _DAY)


def _error(generation: Generation) -> dict[str, str] | None:
    if generation.status is Status.CANCELLED:
        return {"code": "cancelled", "message": "The video was cancelled."}
    if generation.status is not Status.FAILED:
        return None
    code = "invalid_params" if generation.params is None else "generation_failed"
    return {"code": code, "message": str(generation.error_message)}
