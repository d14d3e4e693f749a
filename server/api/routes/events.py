"""GET /events: progress and completion of generations, as server-sent events."""

import json
from collections.abc import AsyncIterable
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.api import serializers
from server.api.dependencies import LinksDep, ServiceDep, TenantDep, error_responses
from server.api.links import Links
from server.core.events import Event
from server.core.generation import Status
from server.service.event_stream import Position

router = APIRouter(tags=["events"])

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The id of the last event that the client has"),
]

# mawk, Debian's awk, reads blocks of 4 KiB, so a published shell client would wait forever for a short event. After a
# line of 4 KiB it reads blocks of 8 KiB: hence two lines.
_PADDING = "\n".join([" " * 4096] * 2)


@router.get(
    "/events",
    summary="Follow generations",
    response_class=EventSourceResponse,
    responses=error_responses(),
)
async def follow(
    service: ServiceDep, tenant: TenantDep, links: LinksDep, last_event_id: LastEventId = None
) -> AsyncIterable[ServerSentEvent]:
    """Streams `media_generation_completed` for each generation that succeeds or fails, starting with those of the last
    seconds, and `media_generation_progress` while a generation runs. Comments keep an idle connection open. Each
    completion has an id, and so has the start of a stream: a client that sends the last one as `Last-Event-ID` when it
    connects again misses no completion and gets none twice.
    """
    async for event in service.events(tenant, last_event_id):
        if isinstance(event, Position):
            # without data no client sees an event, but it remembers the id
            yield ServerSentEvent(id=str(event.number))
            continue
        # subscribers with the same base URL share the serialized event
        if (messages := event.made.get(links.base)) is None:
            messages = event.made[links.base] = _messages(event, links)
        for message in messages:
            yield message


def _messages(event: Event, links: Links) -> list[ServerSentEvent]:
    if event.live is not None:
        return [_event("media_generation_progress", serializers.progress(event.generation, event.live, links))]
    if event.generation.status is Status.CANCELLED:
        return []
    data, number = serializers.completion(event.generation, links), event.generation.event_number
    completed = _event("media_generation_completed", data, None if number is None else str(number))
    return [completed, ServerSentEvent(comment=_PADDING)]


def _event(name: str, data: dict[str, Any], id_: str | None = None) -> ServerSentEvent:
    # a published shell client searches for the text "generation_id":"…" without a space
    return ServerSentEvent(event=name, raw_data=json.dumps(data, separators=(",", ":")), id=id_)
