"""GET /files/TOKEN: a finished video or the image of a request, by its signed link."""

from fastapi import APIRouter, Request, Response

from server.api.dependencies import InputsDep, VideosDep, error_responses
from server.api.stored_file import file_response

router = APIRouter(prefix="/files", tags=["files"])

_VIDEO = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
_IMAGE = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_TEXT = {"schema": {"type": "string"}}
_VERSION = {"ETag": _TEXT, "Last-Modified": _TEXT}


@router.get(
    "/{token}",
    operation_id="downloadVideo",
    summary="Download a video",
    response_class=Response,
    responses={
        200: {"description": "The video", "content": _VIDEO, "headers": _VERSION},
        206: {
            "description": "The bytes that the Range header requests",
            "content": _VIDEO,
            "headers": {**_VERSION, "Content-Range": _TEXT},
        },
        304: {"description": "The client has the video already", "headers": _VERSION},
        **error_responses(404, 416, needs_key=False),
    },
)
@router.head("/{token}", include_in_schema=False)
async def show(request: Request, token: str, videos: VideosDep) -> Response:
    """Returns an MP4 file. The link is signed, needs no key and expires. A generation's row always has a fresh link."""
    return file_response(request, videos.storage, await videos.find(token), "video/mp4")


@router.get(
    "/inputs/{token}",
    operation_id="downloadInput",
    summary="Download the image of a request",
    response_class=Response,
    responses={
        200: {"description": "The image", "content": _IMAGE, "headers": _VERSION},
        206: {
            "description": "The bytes that the Range header requests",
            "content": _IMAGE,
            "headers": {**_VERSION, "Content-Range": _TEXT},
        },
        304: {"description": "The client has the image already", "headers": _VERSION},
        **error_responses(404, 416, needs_key=False),
    },
)
@router.head("/inputs/{token}", include_in_schema=False)
async def show_input(request: Request, token: str, inputs: InputsDep) -> Response:
    """Returns a PNG file: the image as it was read, upright and in RGB. The link needs no key and expires."""
    return file_response(request, inputs.storage, await inputs.find(token), "image/png")
