"""/generations: the history in pages."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from server.api.dependencies import FiltersDep, LinksDep, ServiceDep, TenantDep, error_responses
from server.api.schemas.generations import History, OneGeneration, QueueDeleted
from server.api.serializers import history_row, rows_response

router = APIRouter(prefix="/generations", tags=["generations"])

# a larger offset could exceed the database's integers
_MAX_PAGE = 10**9


@router.get(
    "",
    operation_id="listGenerations",
    summary="List all generations",
    response_model=History,
    responses=error_responses(503),
)
async def index(
    service: ServiceDep,
    filters: FiltersDep,
    links: LinksDep,
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            description="Only generations whose prompt has all these words, in any order and case. The beginning of a "
            "word is enough. In Chinese and other scripts without spaces, any part of the text is found. Punctuation "
            "is ignored; of nothing else, nothing is found.",
        ),
    ] = None,
    page: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 1,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Returns a page of the generations that match the filters, newest first."""
    listing = await service.page(replace(filters, search=search), page, page_size)
    pages = {
        "page_number": page,
        "page_size": page_size,
        "total_pages": -(-listing.total // page_size),
        "total_entries": listing.total,
        "total_cost": None,
    }
    return await rows_response(service, listing, lambda placed, live: history_row(placed, live, links), pages)


@router.get(
    "/{generation_id}",
    operation_id="getGeneration",
    summary="Get a generation",
    response_model=OneGeneration,
    responses=error_responses(404, 503),
)
async def show(generation_id: str, service: ServiceDep, tenant: TenantDep, links: LinksDep) -> JSONResponse:
    """Returns one generation in the history's envelope."""
    placed = await service.get(tenant, generation_id)
    return JSONResponse(
        {
            "status": "success",
            "status_message": "resource_found",
            "generation": history_row(placed, service.live(placed), links),
        }
    )


@router.delete(
    "/{generation_id}",
    operation_id="deleteGeneration",
    summary="Delete a generation",
    response_model=QueueDeleted,
    responses=error_responses(404, 409, 503),
)
async def remove(generation_id: str, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Deletes the row and the video of a generation that has ended. Cancel a queued or running generation first."""
    await service.remove(tenant, generation_id)
    return {"status": "success", "generation_id": generation_id}
