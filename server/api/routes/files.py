"""GET /files/TOKEN: a finished video, by its signed link."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from server.api.dependencies import VideosDep
from server.api.schemas.errors import ErrorBody
from server.api.stored_file import file_response
from server.core.errors import ResourceNotFoundError

router = APIRouter(prefix="/files", tags=["files"])

_DESCRIPTIONS = {
    200: "The video",
    304: "The client has the video already",
    206: "The bytes that the Range header requests",
    416: "The Range header starts after the end of the file",
}


@router.get(
    "/{token}",
    summary="Download a video",
    response_class=StreamingResponse,
    responses={
        **{status: {"description": text, "content": {"video/mp4": {}}} for status, text in _DESCRIPTIONS.items()},
        400: {"description": "The Range header is malformed", "content": {"text/plain": {}}},
        404: {"model": ErrorBody, "description": ResourceNotFoundError.title},
    },
)
@router.head("/{token}", include_in_schema=False)
async def show(request: Request, token: str, videos: VideosDep) -> Response:
    """Returns an MP4 file. The link is signed, needs no key and expires. A generation's row always has a fresh link."""
    return file_response(request, videos.storage, await videos.find(token), "video/mp4")
