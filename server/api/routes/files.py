"""GET /files/TOKEN: a video, a still of one, an archive of videos, or an input of a request, by its signed link."""

from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from server.api.dependencies import InputsDep, LibraryDep, VideosDep, error_responses
from server.api.links import ARCHIVE_SUFFIX
from server.api.responses.stored_file import file_response, video_response
from server.storage.files.inputs import AUDIO_SUFFIX, IMAGE_SUFFIX, VIDEO_SUFFIX
from server.storage.files.stills import MEDIA_TYPE

router = APIRouter(prefix="/files", tags=["files"])

_ZIP = "application/zip"
_TEXT = {"schema": {"type": "string"}}
_INPUT_TYPES = {IMAGE_SUFFIX: "image/png", VIDEO_SUFFIX: "video/mp4", AUDIO_SUFFIX: "audio/flac"}


def _responses(what: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of the responses with a file."""
    version = {"ETag": _TEXT, "Last-Modified": _TEXT}
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
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
    responses={
        **_responses("video", "video/mp4"),
        302: {"description": "The video is at the URL of the Location header (setting `redirect_links`)"},
    },
)
@router.head("/{token}", include_in_schema=False)
async def show(request: Request, token: str, videos: VideosDep) -> Response:
    """Returns an MP4 file. The link is signed, needs no key and expires. A generation's row always has a fresh link."""
    return await video_response(request, videos, await videos.links.find(token))


@router.get(
    "/stills/{token}",
    operation_id="downloadStill",
    summary="Download a thumbnail or a spritesheet",
    response_class=Response,
    responses=_responses("picture", MEDIA_TYPE),
)
@router.head("/stills/{token}", include_in_schema=False)
async def show_still(request: Request, token: str, videos: VideosDep) -> Response:
    """Returns a picture of a finished video as a WebP file. The link needs no key and expires."""
    stills = videos.stills
    return file_response(request, stills.storage, await stills.links.find(token), MEDIA_TYPE)


@router.get(
    "/inputs/{token}",
    operation_id="downloadInput",
    summary="Download an input of a request",
    response_class=Response,
    responses=_responses("input", *_INPUT_TYPES.values()),
)
@router.head("/inputs/{token}", include_in_schema=False)
async def show_input(request: Request, token: str, inputs: InputsDep) -> Response:
    """Returns an image as a PNG file, upright and in RGB, or a video as an MP4 file without sound, as they were read.
    The link needs no key and expires.
    """
    file = await inputs.links.find(token)
    return file_response(request, inputs.storage, file, _INPUT_TYPES[PurePath(file.key).suffix])


@router.get(
    "/archives/{token}",
    operation_id="downloadArchive",
    summary="Download many videos",
    response_class=Response,
    responses={
        200: {
            "description": "The archive",
            "content": {_ZIP: {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"Content-Disposition": _TEXT},
        },
        **error_responses(404, 503, needs_key=False),
    },
)
@router.head("/archives/{token}", include_in_schema=False)
async def show_archive(request: Request, token: str, library: LibraryDep) -> Response:
    """Returns a zip file of MP4 files, as it is made: it has no length before its end, and no ranges. The link is
    signed, needs no key and expires. What was removed in the meantime is left out, and named in `left-out.txt`.
    """
    content = await library.archives.open(token.removesuffix(ARCHIVE_SUFFIX))
    headers = {"Content-Disposition": 'attachment; filename="paddock-videos.zip"', "Cache-Control": "no-store"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=_ZIP)
    return StreamingResponse(content, headers=headers, media_type=_ZIP)
