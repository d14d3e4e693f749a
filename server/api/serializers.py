"""Serializes generations and events into the JSON of the API."""

import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from fastapi import Response
from fastapi.responses import StreamingResponse

from server.api.links import Links
from server.api.schemas.generations import EXECUTION, HistoryRow, MediaType, Row
from server.core.events import Live
from server.core.generation import Generation
from server.service.service import Service
from server.storage.db.records import Listing, Placed
from server.storage.files.interface import FileStorage, StoredFile
from server.storage.webhooks.deliveries import Delivery

_JSON = "application/json"
WARNINGS_HEADER = "Paddock-Warnings"
WITH_WARNINGS: dict[str, Any] = {
    "headers": {WARNINGS_HEADER: {"description": "What was not done as requested", "schema": {"type": "string"}}}
}
"""The OpenAPI documentation of a response that `warn` may have changed."""

MAX_EVENT_BYTES = 256 * 1024
"""Limit of what is sent to a webhook. A row above it is sent without the parameters of its request."""

_INPUT_FIELDS: dict[str, Literal["input_image", "end_image_url", "input_video", "input_audio"]] = {
    "image": "input_image",
    "last_image": "end_image_url",
    "video": "input_video",
    "audio": "input_audio",
}
"""The fields of a row that link to a generation's inputs."""


def row(placed: Placed, live: Live | None, links: Links) -> dict[str, Any]:
    """Return a `Row` and the parameters of its request."""
    return {**placed.generation.parameters, **_row(placed, live, links)}


def _row(placed: Placed, live: Live | None, links: Links) -> Row:
    generation = placed.generation
    now = live or Live(progress=generation.progress)
    thumbnail, spritesheet = links.stills(generation)
    fields: Row = {
        "generation_id": generation.id,
        "model_name": generation.model_name,
        "prompt": _text(generation.parameters.get("prompt")),
        "media_type": cast(MediaType, generation.media_type),
        "status": generation.status.value,
        "result_url": links.video(generation.artifact),
        "error_message": generation.error_message,
        "enqueued_at": int(generation.enqueued_at),
        "started_at": _seconds(generation.started_at),
        "completed_at": _seconds(generation.completed_at),
        "target_namespace": generation.target_namespace,
        "target_repo": generation.target_repo,
        "target_directory": generation.target_directory,
        "progress": round(now.progress, 4),
        "eta_seconds": None if now.eta is None else round(now.eta, 1),
        "queue_position": placed.queue_position,
        "preview_url": links.preview(generation.id, live),
        "thumbnail_url": thumbnail,
        "spritesheet_url": spritesheet,
        "warnings": [*generation.warnings, *([] if now.waits_for is None else [now.waits_for])],
        "favourite": generation.favourite,
        "tags": [*placed.tags],
    }
    linked = links.inputs(generation)
    for name in linked.keys() & _INPUT_FIELDS.keys():
        fields[_INPUT_FIELDS[name]] = linked[name]
    if generation.artifact is not None and generation.has_audio:
        fields["has_audio"] = True
    enhancement = generation.enhancement
    if enhancement is not None and enhancement.prompt is not None:
        fields["enhanced_prompt"] = enhancement.prompt
    if enhancement is not None and enhancement.model is not None:
        fields["enhance_model"] = enhancement.model
        fields["enhance_seconds"] = enhancement.seconds or 0.0
    if enhancement is not None and enhancement.style is not None:
        fields["inspiration_style"] = enhancement.style
    if generation.asked_model is not None:
        fields["answered_by"] = generation.model
    if generation.fingerprint is not None:
        known = generation.fingerprint
        host = {} if generation.host is None else {"host": generation.host}
        fields["execution"] = {**{name: known[name] for name in EXECUTION if name in known}, **host}
    return fields


def history_row(placed: Placed, live: Live | None, links: Links) -> dict[str, Any]:
    """Return a `HistoryRow` and the parameters of its request."""
    fields: HistoryRow = {
        **_row(placed, live, links),
        "cost": None,
        "user_id": None,
        "username": None,
        "user_image": None,
    }
    return {**placed.generation.parameters, **fields}


async def rows_response(
    service: Service,
    listing: Listing,
    to_json: Callable[[Placed, Live | None], dict[str, Any]],
    more: Mapping[str, Any],
) -> Response:
    """Return the JSON of a list: `count`, `generations`, each made by `to_json`, and the fields of `more`.

    A long list is read and sent in parts, as fast as the client reads: whole it could need much memory.
    """
    start = _encode({"count": len(listing.places), "generations": []})[:-2]
    end = b"]" + (b"," + _encode(more)[1:] if more else b"}")

    async def parts() -> AsyncIterator[bytes]:
        async for batch in service.rows(listing):
            rows = [to_json(placed, live) for placed, live in zip(batch, service.lives(batch), strict=True)]
            if rows:
                yield b",".join(map(_encode, rows))

    rest = parts()
    first, second = await anext(rest, b""), await anext(rest, b"")
    if not second:
        return Response(start + first + end, media_type=_JSON)

    async def whole() -> AsyncIterator[bytes]:
        yield start + first + b"," + second
        async for part in rest:
            yield b"," + part
        yield end

    return StreamingResponse(whole(), media_type=_JSON)


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def videos_response(
    answer: Mapping[str, Any], files: Sequence[StoredFile], storage: FileStorage, headers: Mapping[str, str]
) -> StreamingResponse:
    """Return an answer in JSON with the content of files in base64 as `videos`.

    It is read while it is sent: whole it could need much memory.
    """
    start = _encode({**answer, "videos": []})[:-2]
    before, after, end = b'{"b64_json":"', b'"}', b"]}"

    async def content() -> AsyncIterator[bytes]:
        yield start
        for number, file in enumerate(files):
            yield (b"," if number else b"") + before
            rest = b""
            async for chunk in storage.open(file.key, 0, file.size):
                # three bytes are four characters
                unsent = rest + chunk
                whole = len(unsent) // 3 * 3
                yield base64.b64encode(unsent[:whole])
                rest = unsent[whole:]
            yield base64.b64encode(rest) + after
        yield end

    sizes = [len(before) + 4 * -(-file.size // 3) + len(after) for file in files]
    length = len(start) + sum(sizes) + len(sizes) - 1 + len(end)
    return StreamingResponse(content(), headers={**headers, "Content-Length": str(length)}, media_type=_JSON)


def completion(generation: Generation, links: Links) -> dict[str, Any]:
    """Return the data of the event for a generation that succeeded or failed."""
    common = {
        "generation_id": generation.id,
        "status": generation.status,
        "media_type": generation.media_type,
    }
    if generation.artifact is None:
        return {**common, "error": generation.error_message}
    return {**common, "model": generation.model_name, "url": links.video(generation.artifact)}


def webhook_event(delivery: Delivery, links: Links) -> bytes:
    """Return the body of an event for a webhook: its `type`, its `timestamp`, and as `data` the row as of then."""
    placed = Placed(delivery.generation, None, tags=delivery.tags)
    moment = datetime.fromtimestamp(delivery.created_at, UTC).isoformat(timespec="milliseconds")
    event = {"type": delivery.type, "timestamp": moment.replace("+00:00", "Z")}
    body = _encode({**event, "data": row(placed, None, links)})
    if len(body) <= MAX_EVENT_BYTES:
        return body
    bare = replace(placed, generation=replace(delivery.generation, parameters={}, enhancement=None, warnings=()))
    return _encode({**event, "data": row(bare, None, links)})


def progress(generation: Generation, live: Live, links: Links) -> dict[str, Any]:
    """Return the data of a progress event."""
    return {
        "generation_id": generation.id,
        "status": generation.status,
        "progress": round(live.progress, 4),
        "eta_seconds": None if live.eta is None else round(live.eta, 1),
        "stage": live.stage,
        "step": live.step,
        "steps": live.steps,
        "preview_url": links.preview(generation.id, live),
    }


def warn(response: Response, generations: Sequence[Generation]) -> None:
    """List in a header of the response what was not done as requested."""
    warnings = dict.fromkeys(sentence for generation in generations for sentence in generation.warnings)
    if warnings:
        response.headers[WARNINGS_HEADER] = " ".join(warnings).encode("ascii", "backslashreplace").decode()


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
