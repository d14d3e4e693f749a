"""Downloads one file by a URL that a client chose, within limits of time, size and redirects."""

import asyncio
import ssl
from collections.abc import AsyncIterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpcore
import httpx

from pipelines.core.files import opened
from server.media.fetch.addresses import checked_url
from server.media.fetch.connection import Resolve, resolve
from server.media.fetch.exchange import Exchanges, TemporaryError, header
from server.media.limits import AUDIO_BYTES, IMAGE_BYTES, VIDEO_BYTES, RefusedInputError

MAX_REDIRECTS = 3

_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a URL should have: its name in sentences, its media types, and the limits of bytes and seconds."""

    name: str
    accept: str
    max_bytes: int
    seconds: float


IMAGE_FILE = FileKind("an image", "image/*", IMAGE_BYTES, 30.0)
AUDIO_FILE = FileKind("a sound", "audio/*", AUDIO_BYTES, 30.0)
VIDEO_FILE = FileKind("a video", "video/*", VIDEO_BYTES, 120.0)


class Downloader:
    """Downloads files. Tests give it names and a network of their own."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._exchanges = Exchanges(resolve, network, tls)

    async def download(self, text: str, target: Path, kind: FileKind = IMAGE_FILE) -> None:
        """Write what a URL has to a file.

        Raises RefusedInputError, TemporaryError where a later attempt may succeed, and OSError if the file cannot be
        written.
        """
        try:
            async with asyncio.timeout(kind.seconds):
                await self._follow(text, target, kind)
        except TimeoutError:
            raise RefusedInputError(f"is a URL that did not give {kind.name} within {kind.seconds:g} seconds") from None

    async def _follow(self, text: str, target: Path, kind: FileKind) -> None:
        url = checked_url(text)
        for _ in range(MAX_REDIRECTS + 1):
            following = await self._request(url, target, kind)
            if following is None:
                return
            try:
                url = url.join(following)
            except (httpx.InvalidURL, ValueError) as error:
                raise RefusedInputError("is a URL that redirects to what is not a valid URL") from error
            try:
                url = checked_url(str(url))
            except RefusedInputError as error:
                raise RefusedInputError(f"redirects to a URL that cannot be used: it {error}") from None
        raise RefusedInputError(f"is a URL that redirects more than {MAX_REDIRECTS} times")

    async def _request(self, url: httpx.URL, target: Path, kind: FileKind) -> str | None:
        """Write what a URL has to a file, or return where it redirects to."""
        async with self._exchanges.response("GET", url, {"Accept": kind.accept}) as response:
            location = header(response, b"location")
            if response.status in _REDIRECTS and location:
                return location
            _check(response, kind)
            await _write(response.aiter_stream(), target, kind)
            return None


def _check(response: httpcore.Response, kind: FileKind) -> None:
    """Raise RefusedInputError unless a response may be a file within the limit."""
    if response.status != HTTPStatus.OK:
        error = TemporaryError if response.status in _TEMPORARY else RefusedInputError
        raise error(f"is a URL that answers with HTTP status {response.status}")
    if (encoding := header(response, b"content-encoding") or "identity").lower() != "identity":
        raise RefusedInputError(f"is a URL that answers with compressed content ({encoding[:20]!a})")
    length = header(response, b"content-length") or "0"
    if length.isdecimal() and int(length) > kind.max_bytes:
        raise _too_large(kind)


async def _write(content: AsyncIterable[bytes], target: Path, kind: FileKind) -> None:
    size = 0
    async with opened(target, "wb") as file:
        async for chunk in content:
            size += len(chunk)
            if size > kind.max_bytes:
                raise _too_large(kind)
            await asyncio.to_thread(file.write, chunk)


def _too_large(kind: FileKind) -> RefusedInputError:
    return RefusedInputError(f"must have at most {kind.max_bytes // 2**20} MB")
