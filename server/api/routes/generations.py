"""/generations: the history, paged."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from server.api.dependencies import FiltersDep, LinksDep, ServiceDep, TenantDep, gives
from server.api.schemas.generations import History, OneGeneration, QueueDeleted
from server.api.serializers import history_row

router = APIRouter(prefix="/generations", tags=["generations"])

# beyond, the offset of a page could leave the range of a database's integers
_MAX_PAGE = 10**9


@router.get("", summary="Page through all generations", response_model=History, responses=gives(400, 503))
async def index(
    service: ServiceDep,
    filters: FiltersDep,
    links: LinksDep,
    search: Annotated[str | None, Query(max_length=200, description="Words that must all be in the prompt")] = None,
    page: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 1,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> JSONResponse:
    """Every generation that passes the filters, newest first."""
    found = await service.page(replace(filters, search=search), page, page_size)
    lives = service.lives(found.rows)
    rows = [history_row(placed, live, links) for placed, live in zip(found.rows, lives, strict=True)]
    return JSONResponse(
        {
            "count": len(rows),
            "generations": rows,
            "page_number": page,
            "page_size": page_size,
            "total_pages": -(-found.total // page_size),
            "total_entries": found.total,
            "total_cost": None,
        }
    )


@router.get("/{generation_id}", summary="Look at a generation", response_model=OneGeneration, responses=gives(404, 503))
async def show(generation_id: str, service: ServiceDep, tenant: TenantDep, links: LinksDep) -> JSONResponse:
    """One generation, in the history's envelope."""
    placed = await service.get(tenant, generation_id)
    return JSONResponse(
        {
            "status": "success",
            "status_message": "resource_found",
            "generation": history_row(placed, service.live(placed), links),
        }
    )


@router.delete(
    "/{generation_id}", summary="Remove a generation", response_model=QueueDeleted, responses=gives(404, 409, 503)
)
async def remove(generation_id: str, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Removes the row and the video of one that is over. Cancel one that is not, first."""
    await service.remove(tenant, generation_id)
    return {"status": "success", "generation_id": generation_id}
