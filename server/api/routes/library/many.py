"""/generations: what is asked of many generations at once, and what there is to filter by."""

from typing import Any

from fastapi import APIRouter

from server.api.dependencies import BodyDep, LibraryDep, LinksDep, TenantDep, error_responses, json_body
from server.api.schemas.example import GENERATION_ID
from server.api.schemas.library import (
    ARCHIVE,
    DELETE_MANY,
    MARK_MANY,
    ArchiveMade,
    Facets,
    ManyDeleted,
    Marked,
    Tags,
)
from server.service.library.bodies import MAX_ARCHIVED, MAX_IDS, ids_of, marking_of_many

router = APIRouter(prefix="/generations", tags=["generations"])

_EXAMPLE = {"generation_ids": [GENERATION_ID]}


@router.get(
    "/tags",
    operation_id="listTags",
    summary="List all tags",
    response_model=Tags,
    responses=error_responses(503),
)
async def tags(library: LibraryDep, tenant: TenantDep) -> dict[str, Any]:
    """Returns the tags of all generations, the most frequent first."""
    return {"data": [{"tag": each.value, "count": each.count} for each in await library.tags(tenant)]}


@router.get(
    "/facets",
    operation_id="listFacets",
    summary="List what there is to filter by",
    response_model=Facets,
    responses=error_responses(503),
)
async def facets(library: LibraryDep, tenant: TenantDep) -> dict[str, Any]:
    """Returns the models and the sizes of all generations, at most 200 of each, and the number of favourites."""
    models, sizes, favourites = await library.facets(tenant)
    return {
        "models": [{"model": each.value, "count": each.count} for each in models],
        "sizes": [{"size": each.value, "count": each.count} for each in sizes],
        "favourites": favourites,
    }


@router.post(
    "/marks",
    operation_id="markGenerations",
    summary="Mark many generations",
    response_model=Marked,
    responses=error_responses(404, 409, 413, 415, 503),
    openapi_extra=json_body(MARK_MANY, {**_EXAMPLE, "favourite": True, "add_tags": ["lake"]}),
)
async def mark(body: BodyDep, library: LibraryDep, tenant: TenantDep) -> dict[str, Any]:
    """Makes generations favourites or not, and adds and removes tags. All of them are marked, or none: an unknown id is
    a 404 that names it.
    """
    ids, marking = marking_of_many(body.content)
    return {"count": await library.mark(tenant, ids, marking)}


@router.post(
    "/delete",
    operation_id="deleteGenerations",
    summary="Delete many generations",
    response_model=ManyDeleted,
    responses=error_responses(413, 415, 503),
    openapi_extra=json_body(DELETE_MANY, _EXAMPLE),
)
async def delete(body: BodyDep, library: LibraryDep, tenant: TenantDep) -> dict[str, Any]:
    """Deletes the rows and the videos of those generations that have ended, and says why the others are left."""
    done = await library.delete(tenant, ids_of(body.content, MAX_IDS))
    refused = [{"generation_id": id_, "type": why.type, "message": str(why)} for id_, why in done.refused.items()]
    return {"status": "success", "count": len(done.deleted), "deleted": done.deleted, "not_deleted": refused}


@router.post(
    "/archive",
    operation_id="archiveGenerations",
    summary="Download many videos",
    response_model=ArchiveMade,
    responses=error_responses(404, 409, 413, 415, 503),
    openapi_extra=json_body(ARCHIVE, _EXAMPLE),
)
async def archive(body: BodyDep, library: LibraryDep, tenant: TenantDep, links: LinksDep) -> dict[str, Any]:
    """Returns a signed link to a zip file of the videos of at most 200 generations."""
    made = await library.archives.make(tenant, ids_of(body.content, MAX_ARCHIVED))
    return {
        "url": links.archive(made.token),
        "count": made.count,
        "bytes": made.size,
        "without_video": made.without,
    }
