"""/v1/videos: request, list, get and delete videos as OpenAI's clients do."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from server.api.dependencies import LibraryDep, ServiceDep, TenantDep, json_body
from server.api.openai.resources import video
from server.api.openai.schemas import (
    CREATE,
    OpenaiVideo,
    OpenaiVideoDeleted,
    OpenaiVideoList,
    openai_responses,
)
from server.api.openai.submission import CreateBodyDep, SubmissionDep
from server.api.serializers import WITH_WARNINGS
from server.core.generation import ACTIVE
from server.storage.db.records import Filters

router = APIRouter(prefix="/v1/videos", tags=["openai"])

_MAX_ID_CHARS = 200


@router.post(
    "",
    operation_id="createVideo",
    summary="Request a video",
    response_model=OpenaiVideo,
    responses={200: WITH_WARNINGS, **openai_responses(404, 409, 413, 415, 503)},
    openapi_extra=json_body(CREATE, {"prompt": "An ox by a lake", "seconds": "2"}),
)
async def create(body: CreateBodyDep, submission: SubmissionDep) -> dict[str, Any]:
    """Returns as soon as the video is in the queue. The parameters of `POST /api/ai/queue` may stand beside OpenAI's,
    and take precedence. A value that the model does not make is refused, with the nearest that it makes. The body may
    also be `multipart/form-data`, with `input_reference` as a file.
    """
    return await submission.submit(body, body.content)


@router.get(
    "",
    operation_id="listVideos",
    summary="List videos",
    response_model=OpenaiVideoList,
    responses=openai_responses(404, 503),
)
async def index(
    service: ServiceDep,
    library: LibraryDep,
    tenant: TenantDep,
    after: Annotated[
        str | None, Query(max_length=_MAX_ID_CHARS, description="The id of the last video of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of the request")] = "desc",
) -> dict[str, Any]:
    """Returns a page of all videos, also of those that other routes requested."""
    oldest_first = order == "asc"
    filters = Filters(tenant=tenant, media_type="video")
    listing = await library.beyond(filters, after, limit, oldest_first=oldest_first)
    placed = [each async for batch in service.rows(listing) for each in batch]
    data = [video(service, each.generation, live) for each, live in zip(placed, service.lives(placed), strict=True)]
    if oldest_first:
        data.reverse()
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": listing.next is not None,
    }


@router.get(
    "/{video_id}",
    operation_id="retrieveVideo",
    summary="Get a video",
    response_model=OpenaiVideo,
    responses=openai_responses(404, 503),
)
async def show(video_id: str, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Returns one video, whichever route requested it."""
    placed = await service.get(tenant, video_id)
    return video(service, placed.generation, service.live(placed))


@router.delete(
    "/{video_id}",
    operation_id="deleteVideo",
    summary="Delete a video",
    response_model=OpenaiVideoDeleted,
    responses=openai_responses(404, 503),
)
async def remove(video_id: str, service: ServiceDep, library: LibraryDep, tenant: TenantDep) -> dict[str, Any]:
    """Deletes a video and its files. One that is queued or being made is cancelled before."""
    if (await service.get(tenant, video_id)).generation.status in ACTIVE:
        await service.cancel(tenant, video_id)
    for refusal in (await library.delete(tenant, [video_id])).refused.values():
        raise refusal
    return {"id": video_id, "object": "video.deleted", "deleted": True}
