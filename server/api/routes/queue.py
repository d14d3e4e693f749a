"""/queue: enqueue, list, get and cancel generations, and get previews."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from server.api.dependencies import (
    BodyDep,
    FiltersDep,
    IdempotencyKey,
    LinksDep,
    PreviewsDep,
    ServiceDep,
    TenantDep,
    WebhookDefaultsDep,
    error_responses,
    json_body,
)
from server.api.schemas.generations import QueueCreated, QueueDeleted, QueueList, Row
from server.api.schemas.requests import ENQUEUE, EXAMPLE
from server.api.serializers import WITH_WARNINGS, row, rows_response, warn
from server.core.errors import PreviewNotFoundError
from server.core.generation import ACTIVE, Origin, Status

router = APIRouter(prefix="/queue", tags=["queue"])


@router.post(
    "",
    operation_id="enqueueGenerations",
    summary="Enqueue generations",
    response_model=QueueCreated,
    responses={200: WITH_WARNINGS, **error_responses(404, 409, 413, 415, 503)},
    openapi_extra=json_body(ENQUEUE, EXAMPLE),
)
async def create(
    body: BodyDep,
    service: ServiceDep,
    tenant: TenantDep,
    response: Response,
    webhook: WebhookDefaultsDep,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Returns as soon as the generations are recorded. With num_generations above 1 the n-th generation, counted from
    0, uses seed + n. A parameter outside its limits gives a generation that has failed with an error message. Unknown
    parameters are ignored, and listed in the header `Paddock-Warnings`. The body may also be `multipart/form-data`,
    with images as files.
    """
    submitted = await service.submit(tenant, body.content, Origin.QUEUE, idempotency_key, body.inputs, webhook)
    warn(response, submitted)
    return {"generations": [{"generation_id": g.id, "status": Status.QUEUED} for g in submitted]}


@router.get(
    "",
    operation_id="listQueue",
    summary="List active generations",
    response_model=QueueList,
    responses=error_responses(503),
)
async def index(service: ServiceDep, filters: FiltersDep, links: LinksDep) -> Response:
    """Returns at most 1,000 generations, newest first: queued and processing ones, or those with the given `status`."""
    if filters.statuses is None:
        filters = replace(filters, statuses=ACTIVE)
    listing = await service.newest(filters)
    return await rows_response(service, listing, lambda placed, live: row(placed, live, links), {})


@router.get(
    "/{generation_id}",
    operation_id="getQueuedGeneration",
    summary="Get a generation",
    response_model=Row,
    responses=error_responses(404, 503),
)
async def show(generation_id: str, service: ServiceDep, tenant: TenantDep, links: LinksDep) -> JSONResponse:
    """Returns one generation, also after it has ended."""
    placed = await service.get(tenant, generation_id)
    return JSONResponse(row(placed, service.live(placed), links))


@router.get(
    "/{generation_id}/preview",
    operation_id="getPreview",
    summary="Get a preview",
    response_class=Response,
    responses={
        200: {
            "description": "The preview",
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": {"schema": {"type": "string"}}},
        },
        **error_responses(404, 503),
    },
)
async def preview(generation_id: str, service: ServiceDep, tenant: TenantDep, previews: PreviewsDep) -> Response:
    """Returns a small JPEG of one frame as of the last steps, or 404 if there is none yet. The row and each progress
    event contain its URL, `preview_url`, which changes with each preview.
    """
    placed = await service.get(tenant, generation_id)
    live = service.live(placed)
    if live is None or live.preview is None:
        raise PreviewNotFoundError
    content = await previews.preview(generation_id, placed.generation.attempt)
    tag = f'"{placed.generation.attempt}-{live.preview}"'
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store", "ETag": tag})


@router.delete(
    "/{generation_id}",
    operation_id="cancelGeneration",
    summary="Cancel a generation",
    response_model=QueueDeleted,
    responses=error_responses(404, 503),
)
async def cancel(generation_id: str, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Cancels a queued or running generation at once. The device stops within one step. A generation that has ended
    does not change.
    """
    await service.cancel(tenant, generation_id)
    return {"status": "success", "generation_id": generation_id}
