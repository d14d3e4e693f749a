"""POST /videos/generate: the sync route, which responds with the finished video."""

import asyncio
import base64
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from server.api.dependencies import (
    IdempotencyKey,
    JsonBody,
    LinksDep,
    ServiceDep,
    TenantDep,
    VideosDep,
    error_responses,
    json_body,
)
from server.api.links import Links
from server.api.schemas.requests import EXAMPLE, GENERATE
from server.api.schemas.videos import VideosGenerated
from server.api.serializers import warn
from server.core.errors import ConflictError, PaddockError
from server.core.generation import Generation, Origin, Status
from server.service.parameters import response_format
from server.service.service import Service
from server.storage.files.videos import Videos

router = APIRouter(tags=["videos"])

_POLL_SECONDS = 0.5


@router.post(
    "/videos/generate",
    summary="Generate a video and wait for it",
    response_model=VideosGenerated,
    response_model_exclude_unset=True,
    responses=error_responses(400, 404, 409, 413, 415, 429, 500, 503),
    openapi_extra=json_body(GENERATE, EXAMPLE),
)
async def generate(
    request: Request,
    body: JsonBody,
    service: ServiceDep,
    tenant: TenantDep,
    videos: VideosDep,
    links: LinksDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Responds when the videos are ready. If the client disconnects, generations that have not started are cancelled;
    the others continue. With an `Idempotency-Key` they wait some seconds for the client to send the request again.
    Unknown parameters are ignored, and listed in the header `Paddock-Warnings`.
    """
    submitted = await service.submit(tenant, body, Origin.SYNC, idempotency_key)
    ids = [generation.id for generation in submitted]
    finished = await _while_connected(request, service, tenant, ids, may_return=idempotency_key is not None)
    warn(response, finished)
    in_base64 = response_format(body) == "b64_json"
    return {
        "model": submitted[0].model,
        "created": int(time.time()),
        "video_url": links.video(finished[0].artifact),
        "videos": [await _video(generation, videos, links, in_base64) for generation in finished],
    }


async def _while_connected(
    request: Request, service: Service, tenant: str, ids: list[str], *, may_return: bool
) -> list[Generation]:
    waiting = asyncio.create_task(service.wait(tenant, ids))
    try:
        while not (await asyncio.wait({waiting}, timeout=_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return await waiting
    except (ClientDisconnect, asyncio.CancelledError):
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        # only now, so that this wait does not count
        service.hang_up(tenant, ids, may_return=may_return)
        raise


async def _video(generation: Generation, videos: Videos, links: Links, in_base64: bool) -> dict[str, Any]:
    if generation.status is Status.CANCELLED:
        raise ConflictError(f"Generation {generation.id} was cancelled.")
    if generation.artifact is None:
        raise PaddockError(f"Getting model response error: {generation.error_message}")
    if in_base64:
        content = await videos.read(generation.artifact)
        return {"b64_json": base64.b64encode(content).decode()}
    return {"url": links.video(generation.artifact)}
