"""GET /files/TOKEN: a finished video, to whoever holds its link."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from server.api.dependencies import VideosDep
from server.api.schemas.errors import ErrorBody
from server.api.stored_file import file_response
from server.core.errors import ResourceNotFoundError

router = APIRouter(prefix="/files", tags=["files"])

_DESCRIPTIONS = {
    200: "The video",
    206: "The bytes asked for by a Range header",
    416: "The Range header asks for bytes beyond the end",
}


@router.get(
    "/{token}",
    summary="Get a video",
    response_class=StreamingResponse,
    responses={
        **{status: {"description": words, "content": {"video/mp4": {}}} for status, words in _DESCRIPTIONS.items()},
        400: {"description": "The Range header is malformed", "content": {"text/plain": {}}},
        404: {"model": ErrorBody, "description": ResourceNotFoundError.title},
    },
)
@router.head("/{token}", include_in_schema=False)
async def show(request: Request, token: str, videos: VideosDep) -> Response:
    """An MP4. The link is signed, needs no key, and expires; a generation's row always has a fresh one."""
    return file_response(request, videos.storage, await videos.find(token), "video/mp4")
