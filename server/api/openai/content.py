"""GET /v1/videos/{video_id}/content: the file of a finished video, or a picture of it."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from server.api.dependencies import ServiceDep, TenantDep, VideosDep
from server.api.openai.schemas import openai_responses
from server.api.responses.stored_file import file_response, video_response
from server.core.errors import ResourceNotFoundError
from server.core.generation import Generation, Status
from server.storage.files.stills import MEDIA_TYPE, SPRITESHEET, THUMBNAIL, still_keys

router = APIRouter(prefix="/v1/videos", tags=["openai"])

_STILLS = {"thumbnail": THUMBNAIL, "spritesheet": SPRITESHEET}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}
_VERSION: dict[str, Any] = {"ETag": _TEXT, "Last-Modified": _TEXT}
_CONTENT = {"video/mp4": _FILE, MEDIA_TYPE: _FILE}


@router.get(
    "/{video_id}/content",
    operation_id="downloadVideoContent",
    summary="Download a video, or a picture of it",
    response_class=Response,
    responses={
        200: {"description": "The file", "content": _CONTENT, "headers": _VERSION},
        206: {
            "description": "The bytes that the Range header requests",
            "content": _CONTENT,
            "headers": {**_VERSION, "Content-Range": _TEXT},
        },
        302: {"description": "The video is at the URL of the Location header (setting `redirect_links`)"},
        304: {"description": "The client has the file already", "headers": _VERSION},
        **openai_responses(404, 416, 503),
    },
)
async def content(
    request: Request,
    video_id: str,
    service: ServiceDep,
    tenant: TenantDep,
    videos: VideosDep,
    variant: Annotated[Literal["video", "thumbnail", "spritesheet"], Query()] = "video",
) -> Response:
    """Returns the MP4 file of a completed video; or its thumbnail or its spritesheet, a WebP file."""
    generation = (await service.get(tenant, video_id)).generation
    if generation.artifact is None:
        raise ResourceNotFoundError(_why_none(generation))
    if variant == "video":
        return await video_response(request, videos, await videos.links.file(generation.artifact))
    stills = videos.stills
    file = await stills.links.file(still_keys(generation.artifact)[_STILLS[variant]])
    return file_response(request, stills.storage, file, MEDIA_TYPE)


def _why_none(generation: Generation) -> str:
    if generation.status is Status.SUCCEEDED:
        return f"The file of video {generation.id} was removed: {generation.error_message}"
    return f"Video {generation.id} is {generation.status}: it has no content."
