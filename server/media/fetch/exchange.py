"""Sends a request to a URL that a client chose, and gets the response, over public addresses only."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import httpx

from server import __version__
from server.media.fetch.connection import PinnedBackend, Resolve, resolve
from server.media.limits import RefusedInputError

CONNECT_SECONDS = 5.0
"""Limit of a connection to one address, and of the silence of a server."""

_TIMEOUTS = {"connect": CONNECT_SECONDS, "read": 2 * CONNECT_SECONDS, "write": CONNECT_SECONDS, "pool": CONNECT_SECONDS}
_HEADERS: dict[str | bytes, str | bytes] = {
    # what is compressed could become larger than it may
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"Paddock/{__version__}",
}


class TemporaryError(RefusedInputError):
    """A URL cannot be reached now, but perhaps later."""


class Exchanges:
    """Requests and their responses. Tests give it names and a network of their own."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._backend = PinnedBackend(resolve, httpcore.AnyIOBackend() if network is None else network)
        self._tls = tls

    @asynccontextmanager
    async def response(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpcore.Response]:
        """Send one request to a checked URL; redirects are not followed.

        Raises RefusedInputError, and TemporaryError where a later attempt may succeed, also for errors of the block
        that reads the response.
        """
        try:
            async with self._exchange(method, url, headers, content) as response:
                yield response
        except httpcore.TimeoutException as error:
            raise TemporaryError("is a URL that does not answer") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            if _is_about_certificate(error):
                raise RefusedInputError("is a URL of a host without a valid certificate") from error
            raise _broken(method) from error
        except ssl.SSLError as error:
            # an alert after the handshake, which the library does not turn into an error of its own
            raise _broken(method) from error
        except httpcore.UnsupportedProtocol as error:
            raise RefusedInputError("is not a valid URL") from error

    @asynccontextmanager
    async def _exchange(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None
    ) -> AsyncIterator[httpcore.Response]:
        if self._tls is None and url.scheme == "https":
            # it reads hundreds of certificates
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        sent: dict[str | bytes, str | bytes] = {"Host": url.netloc.decode("ascii"), **_HEADERS}
        sent.update(headers)
        # a pool of its own: each request resolves and checks its host anew. It takes no proxy from the environment
        async with (
            httpcore.AsyncConnectionPool(
                self._tls, max_connections=1, max_keepalive_connections=0, network_backend=self._backend
            ) as pool,
            pool.stream(
                method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=sent,
                content=content,
                extensions={"timeout": _TIMEOUTS},
            ) as response,
        ):
            yield response


def header(response: httpcore.Response, name: bytes) -> str | None:
    """The first header of a response with this name in lower case."""
    found: list[Any] = [value for key, value in response.headers if key.lower() == name]
    return found[0].decode("latin-1") if found else None


def _broken(method: str) -> TemporaryError:
    done = "fetched" if method == "GET" else "reached"
    return TemporaryError(f"is a URL that cannot be {done}: the connection failed or ended early")


def _is_about_certificate(error: BaseException | None) -> bool:
    """Whether an error comes from a certificate that was not accepted, under errors of the libraries."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
