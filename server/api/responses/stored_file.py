"""Stored files as HTTP responses: the whole file, or the requested range (RFC 9110, section 14)."""

import re
from email.utils import formatdate

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from server.core.errors import InvalidParamsError, RangeNotSatisfiableError
from server.storage.files.interface import FileStorage, StoredFile
from server.storage.files.videos import Videos

MAX_AGE = 3600
"""So many seconds a browser may show a file without asking again. The file of a link never changes."""

_UNIT = re.compile(r"\s*bytes\s*=", re.IGNORECASE)
_RANGE = re.compile(r"bytes=([0-9]{0,40})-([0-9]{0,40})", re.IGNORECASE)


def file_response(request: Request, storage: FileStorage, file: StoredFile, media_type: str) -> Response:
    """Return the response to a GET or HEAD of a file.

    A request for several ranges, or for a range in another unit than bytes, gets the whole file. Raises
    InvalidParamsError or RangeNotSatisfiableError.
    """
    headers = {
        "Accept-Ranges": "bytes",
        "Last-Modified": formatdate(file.modified, usegmt=True),
        "ETag": f'"{round(file.modified * 1e9):x}-{file.size:x}"',
        "Cache-Control": f"private, max-age={MAX_AGE}",
    }
    if _is_known(request, headers):
        return Response(status_code=304, headers=headers)
    status, start, end = 200, 0, file.size
    requested = request.headers.get("range")
    if requested is not None and _UNIT.match(requested) and "," not in requested and _is_current(request, headers):
        match = _RANGE.fullmatch(requested.strip())
        if match is None or match[1] == match[2] == "":
            raise InvalidParamsError("The Range header is malformed.")
        first, last = match.groups()
        start = int(first) if first else max(file.size - int(last), 0)
        end = min(int(last) + 1, file.size) if first and last else file.size
        if start >= file.size:
            raise RangeNotSatisfiableError("The Range header starts after the end of the file.", file.size)
        if start >= end:
            raise InvalidParamsError("The Range header ends before it starts.")
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(storage.open(file.key, start, end), status, headers, media_type)


async def video_response(request: Request, videos: Videos, file: StoredFile) -> Response:
    """Return the response to a GET or HEAD of a video; one that sends on to the object store if `videos` redirect.

    Raises UnavailableError, and as `file_response` does.
    """
    # our own page draws frames of videos, which browsers forbid for those of other sites
    if request.method == "GET" and request.headers.get("sec-fetch-site") != "same-origin":
        url = await videos.direct_url(file.key)
        if url is not None:
            return RedirectResponse(url, 302, {"Cache-Control": "no-store"})
    return file_response(request, videos.storage, file, "video/mp4")


def _is_known(request: Request, headers: dict[str, str]) -> bool:
    """Whether the client has this version of the file (If-None-Match, else If-Modified-Since)."""
    if (tags := request.headers.get("if-none-match")) is not None:
        return tags.strip() == "*" or headers["ETag"] in {tag.strip().removeprefix("W/") for tag in tags.split(",")}
    return request.headers.get("if-modified-since") == headers["Last-Modified"]


def _is_current(request: Request, headers: dict[str, str]) -> bool:
    """Whether the part that a client already has is of this version of the file (If-Range)."""
    condition = request.headers.get("if-range")
    return condition is None or condition in (headers["ETag"], headers["Last-Modified"])
