"""POST /videos/generate: the sync route, which responds with the finished video."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from server.api.dependencies import (
    BodyDep,
    IdempotencyKey,
    KeyCheckDep,
    LinksDep,
    ServiceDep,
    TenantDep,
    VideosDep,
    WebhookDefaultsDep,
    error_responses,
    json_body,
)
from server.api.responses.connected import while_connected
from server.api.schemas.requests import EXAMPLE, GENERATE
from server.api.schemas.videos import VideosGenerated
from server.api.serializers import WITH_WARNINGS, videos_response, warn
from server.core.errors import (
    RETRY_AFTER,
    ConflictError,
    InvalidParamsError,
    PaddockError,
    UnauthenticatedError,
    UnavailableError,
    reason,
)
from server.core.generation import Generation, Origin, Status
from server.service.requests.inputs import INPUTS
from server.service.requests.parameters import response_format
from server.service.service import Service

router = APIRouter(tags=["videos"])


@router.post(
    "/videos/generate",
    operation_id="generateVideo",
    summary="Generate a video and wait for it",
    response_model=VideosGenerated,
    response_model_exclude_unset=True,
    responses={200: WITH_WARNINGS, **error_responses(404, 409, 413, 415, 500, 503)},
    openapi_extra=json_body(GENERATE, EXAMPLE),
)
async def generate(
    request: Request,
    body: BodyDep,
    service: ServiceDep,
    tenant: TenantDep,
    check_key: KeyCheckDep,
    videos: VideosDep,
    links: LinksDep,
    response: Response,
    webhook: WebhookDefaultsDep,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any] | StreamingResponse:
    """Responds when the videos are ready. If the client disconnects or its key is revoked, generations that have not
    started are cancelled; the others continue. With an `Idempotency-Key` they wait some seconds for the client to send
    the request again. Unknown parameters are ignored, and listed in the header `Paddock-Warnings`. The body may also be
    `multipart/form-data`, with its inputs as files.
    """
    submitted = await service.submit(tenant, body.content, Origin.SYNC, idempotency_key, body.inputs, webhook)
    in_base64 = response_format(body.content) == "b64_json"
    body.close()
    ids = [generation.id for generation in submitted]
    finished = await _finished(request, service, tenant, ids, check_key, may_return=idempotency_key is not None)
    for generation in finished:
        _check(generation)
    warn(response, finished)
    answer = {
        "model": submitted[0].model_name,
        "created": int(time.time()),
        "video_url": links.video(finished[0].artifact),
    }
    if in_base64:
        try:
            files = await videos.storage.stat(keys := [str(generation.artifact) for generation in finished])
        except OSError as error:
            raise UnavailableError(f"The video cannot be read now: {reason(error)}.", 5) from error
        if len(files) < len(set(keys)):
            raise PaddockError("A video was removed before it could be sent.")
        return videos_response(answer, [files[key] for key in keys], videos.storage, response.headers)
    return answer | {"videos": [{"url": links.video(generation.artifact)} for generation in finished]}


async def _finished(
    request: Request, service: Service, tenant: str, ids: list[str], check_key: Callable[[], None], *, may_return: bool
) -> list[Generation]:
    waiting = asyncio.create_task(service.wait(tenant, ids))
    try:
        return await while_connected(request, waiting, check_key)
    except (ClientDisconnect, UnauthenticatedError, asyncio.CancelledError):
        await asyncio.gather(waiting, return_exceptions=True)
        # only now, so that this wait does not count
        service.hang_up(tenant, ids, may_return=may_return)
        raise


def _check(generation: Generation) -> None:
    if generation.status is Status.CANCELLED:
        raise ConflictError(f"Generation {generation.id} was cancelled.")
    if generation.status is Status.FAILED and generation.attempt == 0:
        # its input could not be fetched: the URL is to blame where the sentence is about the parameter
        sentence = str(generation.error_message)
        if sentence.startswith(INPUTS):
            raise InvalidParamsError(sentence)
        raise UnavailableError(sentence, RETRY_AFTER)
    if generation.artifact is None:
        raise PaddockError(f"Getting model response error: {generation.error_message}")
