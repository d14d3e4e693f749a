"""GET /files/TOKEN: a finished video or the image of a request, by its signed link."""

from typing import Any

from fastapi import APIRouter, Request, Response

from server.api.dependencies import InputsDep, VideosDep, error_responses
from server.api.stored_file import file_response

router = APIRouter(prefix="/files", tags=["files"])

_TEXT = {"schema": {"type": "string"}}


def _responses(what: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of the responses with a file."""
    version = {"ETag": _TEXT, "Last-Modified": _TEXT}
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": f"The {what}", "content": content, "headers": version},
        206: {
            "description": "The bytes that the Range header requests",
            "content": content,
            "headers": {**version, "Content-Range": _TEXT},
        },
        304: {"description": f"The client has the {what} already", "headers": version},
        **error_responses(404, 416, needs_key=False),
    }


@router.get(
    "/{token}",
    operation_id="downloadVideo",
    summary="Download a video",
    response_class=Response,
    responses=_responses("video", "video/mp4"),
)
@router.head("/{token}", include_in_schema=False)
async def show(request: Request, token: str, videos: VideosDep) -> Response:
    """Returns an MP4 file. The link is signed, needs no key and expires. A generation's row always has a fresh link."""
    return file_response(request, videos.storage, await videos.links.find(token), "video/mp4")


@router.get(
    "/inputs/{token}",
    operation_id="downloadInput",
    summary="Download the image of a request",
    response_class=Response,
    responses=_responses("image", "image/png"),
)
@router.head("/inputs/{token}", include_in_schema=False)
async def show_input(request: Request, token: str, inputs: InputsDep) -> Response:
    """Returns a PNG file: the image as it was read, upright and in RGB. The link needs no key and expires."""
    return file_response(request, inputs.storage, await inputs.links.find(token), "image/png")
