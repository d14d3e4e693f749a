"""GET /events: what happens to generations, as server-sent events."""

import json
from collections.abc import AsyncIterable
from typing import Any

from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.api import rows
from server.api.deps import LinksDep, ServiceDep, TenantDep, gives
from server.generations import Status

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
        if event.live is not None:
            yield _event("media_generation_progress", rows.progress(event.generation, event.live, links))
        elif event.generation.status is not Status.CANCELLED:
            yield _event("media_generation_completed", rows.completion(event.generation, links))
            yield ServerSentEvent(comment=_PADDING)


def _event(name: str, data: dict[str, Any]) -> ServerSentEvent:
    # a published shell client looks for the text "generation_id":"…", with no space in it
    return ServerSentEvent(event=name, raw_data=json.dumps(data, separators=(",", ":")))
