"""GET /events: progress and completion of generations, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from server.api import serializers
from server.api.dependencies import LinksDep, ServiceDep, TenantDep, error_responses
from server.api.links import Links
from server.core.events import Event
from server.core.generation import Status
from server.service.notifications.event_stream import Position

router = APIRouter(tags=["events"])

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The id of the last event that the client has"),
]

PING_SECONDS = 15.0
"""A connection on which nothing happens gets a comment so often: proxies close idle ones."""

# mawk, Debian's awk, reads blocks of 4 KiB, so a published shell client would wait forever for a short event. After a
# line of 4 KiB it reads blocks of 8 KiB: hence two lines.
_PADDING = format_sse_event(comment="\n".join([" " * 4096] * 2))

_MAX_BASES = 4
"""The text of an event is kept for so many base URLs."""

# nothing on the way should keep them
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventsResponse(StreamingResponse):
    """A stream of server-sent events."""

    media_type = "text/event-stream"


@router.get(
    "/events",
    operation_id="followEvents",
    summary="Follow generations",
    # not the class of the stream: errors are no streams
    response_class=Response,
    responses={
        200: {"description": "The events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **error_responses(),
    },
)
async def follow(
    service: ServiceDep, tenant: TenantDep, links: LinksDep, last_event_id: LastEventId = None
) -> EventsResponse:
    """Streams `media_generation_completed` for each generation that succeeds or fails, starting with those of the last
    seconds, and `media_generation_progress` while a generation runs. Comments keep an idle connection open. Each
    completion has an id, and so has the start of a stream: a client that sends the last one as `Last-Event-ID` when it
    connects again misses no completion and gets none twice.
    """
    return EventsResponse(_with_pings(_parts(service.events(tenant, last_event_id), links)), headers=_HEADERS)


async def _parts(events: AsyncIterator[Event | Position], links: Links) -> AsyncIterator[bytes]:
    """What to send of a stream. Events that are there already make one part: sent singly they would take far longer."""
    part = b""
    async for event in events:
        if isinstance(event, Position):
            # without data no client sees an event, but it remembers the id
            yield format_sse_event(id=str(event.number))
            continue
        # subscribers with the same base URL share the text; few of a server's clients have another one
        if (text := event.made.get(links.base)) is None:
            text = _text(event, links)
            if len(event.made) < _MAX_BASES:
                event.made[links.base] = text
        part += text
        if event.is_last and part:
            yield part + _PADDING if text and event.live is None else part
            part = b""


async def _with_pings(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The parts, and a comment for every PING_SECONDS without one."""
    waiting = asyncio.ensure_future(anext(parts, None))
    try:
        while True:
            await asyncio.wait([waiting], timeout=PING_SECONDS)
            if not waiting.done():
                yield KEEPALIVE_COMMENT
                continue
            if (part := waiting.result()) is None:
                return
            yield part
            waiting = asyncio.ensure_future(anext(parts, None))
    finally:
        waiting.cancel()


def _text(event: Event, links: Links) -> bytes:
    if event.live is not None:
        return _format("media_generation_progress", serializers.progress(event.generation, event.live, links))
    if event.generation.status is Status.CANCELLED:
        return b""
    data, number = serializers.completion(event.generation, links), event.generation.event_number
    return _format("media_generation_completed", data, None if number is None else str(number))


def _format(name: str, data: dict[str, Any], id_: str | None = None) -> bytes:
    # a published shell client searches for the text "generation_id":"…" without a space
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":")), id=id_)
