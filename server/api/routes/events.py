"""GET /events: what happens to generations, as server-sent events."""

import json
from collections.abc import AsyncIterable
from typing import Any

from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.api import serializers as rows
from server.api.dependencies import LinksDep, ServiceDep, TenantDep, gives
from server.api.links import Links
from server.core.events import Event
from server.core.generation import Status

router = APIRouter(tags=["events"])

# Debian's awk, mawk, reads 4 KiB at a time: a published shell client would wait for ever for a short event. A line that
# long, of an event before its own, makes it read 8 KiB at a time: hence two.
_PADDING = "\n".join([" " * 4096] * 2)


@router.get(
    "/events",
    summary="Follow generations as they happen",
    response_class=EventSourceResponse,
    responses=gives(),
)
async def follow(service: ServiceDep, tenant: TenantDep, links: LinksDep) -> AsyncIterable[ServerSentEvent]:
    """`media_generation_completed` for each that succeeds or fails, first those of the last seconds;
    `media_generation_progress` while one runs. A comment keeps an idle connection open.
    """
    async for event in service.events(tenant):
        # the same for everybody who called the server by the same address
        if (made := event.made.get(links.base)) is None:
            made = event.made[links.base] = _made(event, links)
        for each in made:
            yield each


def _made(event: Event, links: Links) -> list[ServerSentEvent]:
    if event.live is not None:
        return [_event("media_generation_progress", rows.progress(event.generation, event.live, links))]
    if event.generation.status is Status.CANCELLED:
        return []
    completed = _event("media_generation_completed", rows.completion(event.generation, links))
    return [completed, ServerSentEvent(comment=_PADDING)]


def _event(name: str, data: dict[str, Any]) -> ServerSentEvent:
    # a published shell client looks for the text "generation_id":"…", with no space in it
    return ServerSentEvent(event=name, raw_data=json.dumps(data, separators=(",", ":")))
