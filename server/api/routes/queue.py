"""/queue: enqueue, list what is active, look at one, cancel."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from server.api.dependencies import (
    FiltersDep,
    IdempotencyKey,
    JsonBody,
    LinksDep,
    PreviewsDep,
    ServiceDep,
    TenantDep,
    gives,
    json_body,
)
from server.api.schemas.generations import QueueCreated, QueueDeleted, QueueList, Row
from server.api.schemas.requests import ENQUEUE, EXAMPLE
from server.api.serializers import row
from server.core.errors import PreviewNotFoundError
from server.core.generation import ACTIVE, Origin, Status

router = APIRouter(prefix="/queue", tags=["queue"])


@router.post(
    "",
    summary="Enqueue generations",
    response_model=QueueCreated,
    responses=gives(400, 404, 409, 413, 415, 429, 503),
    openapi_extra=json_body(ENQUEUE, EXAMPLE),
)
async def create(
    body: JsonBody, service: ServiceDep, tenant: TenantDep, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Answers at once, when the generations are safely recorded. With num_generations above 1 the n-th uses
    seed + n. Parameters out of their limits give a generation that has failed, and says why.
    """
    submitted = await service.submit(tenant, body, Origin.QUEUE, idempotency_key)
    return {"generations": [{"generation_id": g.id, "status": Status.QUEUED} for g in submitted]}


@router.get("", summary="List active generations", response_model=QueueList, responses=gives(400, 503))
async def index(service: ServiceDep, filters: FiltersDep, links: LinksDep) -> JSONResponse:
    """Queued and processing generations, newest first, unless `status` names another. At most 1,000."""
    if filters.statuses is None:
        filters = replace(filters, statuses=ACTIVE)
    found = await service.newest(filters)
    rows = [row(placed, live, links) for placed, live in zip(found, service.lives(found), strict=True)]
    return JSONResponse({"count": len(rows), "generations": rows})


@router.get("/{generation_id}", summary="Look at a generation", response_model=Row, responses=gives(404, 503))
async def show(generation_id: str, service: ServiceDep, tenant: TenantDep, links: LinksDep) -> JSONResponse:
    """One generation, also after it is over."""
    placed = await service.get(tenant, generation_id)
    return JSONResponse(row(placed, service.live(placed), links))


@router.get(
    "/{generation_id}/preview",
    summary="See a generation while it runs",
    response_class=Response,
    responses={200: {"description": "The picture", "content": {"image/jpeg": {}}}, **gives(404, 503)},
)
async def preview(generation_id: str, service: ServiceDep, tenant: TenantDep, previews: PreviewsDep) -> Response:
    """A small JPEG of one frame, as the last steps take it to be; 404 while there is none. The row and each progress
    event have its address, `preview_url`, which changes with the picture.
    """
    placed = await service.get(tenant, generation_id)
    live = service.live(placed)
    if live is None or live.preview is None:
        raise PreviewNotFoundError
    content = await previews.preview(generation_id)
    tag = f'"{placed.generation.attempt}-{live.preview}"'
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store", "ETag": tag})


@router.delete(
    "/{generation_id}", summary="Cancel a generation", response_model=QueueDeleted, responses=gives(404, 503)
)
async def cancel(generation_id: str, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Queued or processing, it is cancelled at once, and the device stops within a step. Of a generation that is
    over it changes nothing.
    """
    await service.cancel(tenant, generation_id)
    return {"status": "success", "generation_id": generation_id}
