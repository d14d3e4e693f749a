"""GET /files/TOKEN: a finished video, to whoever holds its link."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from server.api.dependencies import ArtifactsDep
from server.api.schemas.errors import ErrorBody
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
    response_class=FileResponse,
    responses={
        **{status: {"description": words, "content": {"video/mp4": {}}} for status, words in _DESCRIPTIONS.items()},
        400: {"description": "The Range header is malformed", "content": {"text/plain": {}}},
        404: {"model": ErrorBody, "description": ResourceNotFoundError.title},
    },
)
@router.head("/{token}", include_in_schema=False)
async def show(token: str, artifacts: ArtifactsDep) -> FileResponse:
    """An MP4. The link is signed, needs no key, and expires; a generation's row always has a fresh one."""
    return FileResponse(artifacts.open_token(token), media_type="video/mp4")
