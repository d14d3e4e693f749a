"""/generations: the history in pages, and each of its generations."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from server.api.dependencies import BodyDep, LibraryDep, LinksDep, ServiceDep, TenantDep, error_responses, json_body
from server.api.routes.library.filters import LibraryFiltersDep
from server.api.schemas.generations import History, HistoryRow, OneGeneration, QueueDeleted
from server.api.schemas.library import MARK
from server.api.serializers import history_row, rows_response
from server.core.errors import InvalidParamsError
from server.service.library.bodies import marking_of_one

router = APIRouter(prefix="/generations", tags=["generations"])

# a larger offset could exceed the database's integers
_MAX_PAGE = 10**9
_MAX_CURSOR_CHARS = 200


@router.get(
    "",
    operation_id="listGenerations",
    summary="List all generations",
    response_model=History,
    responses=error_responses(503),
)
async def index(
    service: ServiceDep,
    library: LibraryDep,
    filters: LibraryFiltersDep,
    links: LinksDep,
    request: Request,
    cursor: Annotated[
        str | None,
        Query(
            max_length=_MAX_CURSOR_CHARS,
            description="The `next_cursor` of an answer with the same filters: the list goes on there, whatever was "
            "added or deleted meanwhile. It excludes `page`",
        ),
    ] = None,
    page: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 1,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Returns a page of the generations that match the filters, newest first; or, with `cursor`, those that follow
    another answer. These are not counted: `page_number`, `total_pages` and `total_entries` are null then.
    """
    if cursor is None:
        listing = await library.page(filters, page, page_size)
    elif "page" in request.query_params:
        raise InvalidParamsError("cursor and page exclude each other: give one of them.")
    else:
        listing = await library.after(filters, cursor, page_size)
    pages = {
        "page_number": page if cursor is None else None,
        "page_size": page_size,
        "total_pages": None if listing.total is None else -(-listing.total // page_size),
        "total_entries": listing.total,
        "total_cost": None,
        "next_cursor": library.next_cursor(listing),
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


@router.patch(
    "/{generation_id}",
    operation_id="markGeneration",
    summary="Mark a generation",
    response_model=HistoryRow,
    responses=error_responses(404, 409, 413, 415, 503),
    openapi_extra=json_body(MARK, {"favourite": True, "tags": ["lake", "to show"]}),
)
async def mark(
    generation_id: str, body: BodyDep, service: ServiceDep, library: LibraryDep, tenant: TenantDep, links: LinksDep
) -> JSONResponse:
    """Makes a generation a favourite or not, and replaces its tags. What the body does not name stays. Returns the row.
    Favourites are not deleted by their age (`retention_days`), and by the total size (`retention_bytes`) only after all
    others.
    """
    await library.mark(tenant, [generation_id], marking_of_one(body.content))
    placed = await service.get(tenant, generation_id)
    return JSONResponse(history_row(placed, service.live(placed), links))


@router.delete(
    "/{generation_id}",
    operation_id="deleteGeneration",
    summary="Delete a generation",
    response_model=QueueDeleted,
    responses=error_responses(404, 409, 503),
)
async def remove(generation_id: str, library: LibraryDep, tenant: TenantDep) -> dict[str, Any]:
    """Deletes the row and the video of a generation that has ended. Cancel a queued or running generation first."""
    for refusal in (await library.delete(tenant, [generation_id])).refused.values():
        raise refusal
    return {"status": "success", "generation_id": generation_id}
