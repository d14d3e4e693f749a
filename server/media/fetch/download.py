"""Downloads one file by a URL that a client chose, within limits of time, size and redirects."""

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpcore
import httpx

from pipelines.core.files import opened
from server import __version__
from server.media.fetch.addresses import checked_url
from server.media.fetch.connection import PinnedBackend, Resolve, resolve
from server.media.limits import AUDIO_BYTES, IMAGE_BYTES, VIDEO_BYTES, RefusedInputError

CONNECT_SECONDS = 5.0
"""Limit of a connection to one address, and of the silence of a server."""

MAX_REDIRECTS = 3

_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_TIMEOUTS = {"connect": CONNECT_SECONDS, "read": 2 * CONNECT_SECONDS, "write": CONNECT_SECONDS, "pool": CONNECT_SECONDS}
_HEADERS: dict[str | bytes, str | bytes] = {
    # what is compressed could become larger than it may
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"Paddock/{__version__}",
}


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


class TemporaryError(RefusedInputError):
    """A file cannot be had now, but perhaps later."""


class Downloader:
    """Downloads files. Tests give it names and a network of their own."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._backend = PinnedBackend(resolve, httpcore.AnyIOBackend() if network is None else network)
        self._tls = tls

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
        try:
            async with self._response(url, kind) as response:
                location = _header(response, b"location")
                if response.status in _REDIRECTS and location:
                    return location
                _check(response, kind)
                await _write(response.aiter_stream(), target, kind)
                return None
        except httpcore.TimeoutException as error:
            raise TemporaryError("is a URL that does not answer") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            if _is_about_certificate(error):
                raise RefusedInputError("is a URL of a host without a valid certificate") from error
            raise TemporaryError("is a URL that cannot be fetched: the connection failed or ended early") from error
        except ssl.SSLError as error:
            # an alert after the handshake, which the library does not turn into an error of its own
            raise TemporaryError("is a URL that cannot be fetched: the connection failed or ended early") from error
        except httpcore.UnsupportedProtocol as error:
            raise RefusedInputError("is not a valid URL") from error

    @asynccontextmanager
    async def _response(self, url: httpx.URL, kind: FileKind) -> AsyncIterator[httpcore.Response]:
        if self._tls is None and url.scheme == "https":
            # it reads hundreds of certificates
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        # a pool of its own: each request resolves and checks its host anew. It takes no proxy from the environment
        async with (
            httpcore.AsyncConnectionPool(
                self._tls, max_connections=1, max_keepalive_connections=0, network_backend=self._backend
            ) as pool,
            pool.stream(
                "GET",
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers={"Host": url.netloc.decode("ascii"), "Accept": kind.accept, **_HEADERS},
                extensions={"timeout": _TIMEOUTS},
            ) as response,
        ):
            yield response


def _is_about_certificate(error: BaseException | None) -> bool:
    """Whether an error comes from a certificate that was not accepted, under errors of the libraries."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _check(response: httpcore.Response, kind: FileKind) -> None:
    """Raise RefusedInputError unless a response may be a file within the limit."""
    if response.status != HTTPStatus.OK:
        error = TemporaryError if response.status in _TEMPORARY else RefusedInputError
        raise error(f"is a URL that answers with HTTP status {response.status}")
    if (encoding := _header(response, b"content-encoding") or "identity").lower() != "identity":
        raise RefusedInputError(f"is a URL that answers with compressed content ({encoding[:20]!a})")
    length = _header(response, b"content-length") or "0"
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


def _header(response: httpcore.Response, name: bytes) -> str | None:
    found: list[Any] = [value for key, value in response.headers if key.lower() == name]
    return found[0].decode("latin-1") if found else None
