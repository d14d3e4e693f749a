"""Fetch a video to a file that is complete or absent."""

import os
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import httpx

from paddock._core.flows import Flow, Pause, call, open_response, read_chunk
from paddock._core.operations import Operations, succeeded
from paddock._core.protocol import segment
from paddock.errors import DownloadError, PaddockError, UnexpectedResponseError, VideoUnavailableError
from paddock.types import Generation

MAX_BYTES = 4 * 2**30
"""The largest video that is fetched by default."""

MAX_REDIRECTS = 5

_CONTENT_RANGE = re.compile(r"bytes (\d+)-")


class Download:
    """One video on its way to a file."""

    def __init__(self, operations: Operations, generation_id: str, path: Path, max_bytes: int) -> None:
        self._operations = operations
        self._id = generation_id
        self._path = path / f"{segment(generation_id)}.mp4" if path.is_dir() else path
        self._part = self._path.with_name(f".{uuid4().hex}.part")
        self._max_bytes = max_bytes
        self._written = 0
        self._etag: str | None = None

    def flow(self) -> Flow[Path]:
        """Fetch the video and return its path.

        Raises GenerationFailedError, VideoUnavailableError, DownloadError, APIError or UnreachableError; the file at
        `path` is then as it was before.
        """
        try:
            # before anything is fetched: a path that cannot be written is reported at once
            with self._part.open("xb") as file:
                generation = yield from self._operations.get(self._id)
                yield from self._fetch(_address(generation), file)
                yield from call(partial(self._finish, file))
        except OSError as error:
            raise DownloadError(f"The video could not be written to {self._path}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
        return self._path

    def _fetch(self, url: str, file: BinaryIO) -> Flow[None]:
        """Write the whole video, over broken connections."""
        retry = self._operations.retry
        request = self._operations.protocol.fetch(url)
        attempt = 0
        while True:
            attempt += 1
            try:
                yield from self._receive(url, file)
            except httpx.RequestError as error:
                failure = self._operations.failure(error)
            except PaddockError as error:
                failure = error
            else:
                return
            pause = retry.pause(request, failure, attempt)
            if pause is None:
                failure.attempts = attempt
                raise failure
            yield Pause(pause)

    def _receive(self, url: str, file: BinaryIO) -> Flow[None]:
        """Write what one response contains: the rest after a broken connection, if the server can send it."""
        headers = {"Accept": "video/mp4, */*", "Accept-Encoding": "identity"}
        if self._written and self._etag is not None:
            headers |= {"Range": f"bytes={self._written}-", "If-Range": self._etag}
        response = yield from self._open(url, headers)
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            start = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != self._written:
                raise UnexpectedResponseError(f"{url} sends another part of the video than the one asked for.")
        else:
            file.seek(0)
            file.truncate()
            self._written = 0
        etag = response.headers.get("ETag", "W/")
        # offsets count the bytes of the file: a proxy that compresses it has others
        self._etag = None if etag.startswith("W/") or "Content-Encoding" in response.headers else etag
        while (chunk := (yield from read_chunk())) is not None:
            if self._written + len(chunk) > self._max_bytes:
                raise DownloadError(f"The video is larger than max_bytes, {self._max_bytes} bytes.")
            yield from call(partial(file.write, chunk))
            self._written += len(chunk)

    def _open(self, url: str, headers: dict[str, str]) -> Flow[httpx.Response]:
        """Open a file's URL, and those that it redirects to."""
        protocol = self._operations.protocol
        for _ in range(MAX_REDIRECTS + 1):
            response = yield from open_response(protocol.fetch(url, headers))
            if not response.has_redirect_location:
                break
            url = str(response.request.url.join(response.headers["Location"]))
        else:
            raise UnexpectedResponseError(f"The video's address redirects more than {MAX_REDIRECTS} times.")
        yield from self._operations.check(response)
        return response

    def _finish(self, file: BinaryIO) -> None:
        """Give the file its name, so that not even a power failure leaves half of it there."""
        file.flush()
        os.fsync(file.fileno())
        self._part.replace(self._path)


def _address(generation: Generation) -> str:
    if not generation.is_over:
        raise VideoUnavailableError(f"Generation {generation.id} is {generation.status}: wait until it is over.")
    url = succeeded(generation).result_url
    if url is None:
        raise VideoUnavailableError(generation.error_message or f"Generation {generation.id} has no video any more.")
    return url
