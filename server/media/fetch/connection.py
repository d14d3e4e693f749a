"""Connects to the host of a URL by an address that was resolved once and checked."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import httpcore

from server.media.fetch.addresses import is_public, refused_address
from server.media.limits import RefusedInputError

MAX_TRIED = 4
"""So many addresses of a host are tried."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host; raises OSError."""


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only.

    A host is resolved once for each connection, and what was checked is what is connected to: a name server that
    answers differently the next time is not asked. Names in TLS and HTTP stay those of the URL.
    """

    def __init__(self, resolve: Resolve, network: httpcore.AsyncNetworkBackend) -> None:
        self._resolve = resolve
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of the library
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers. Raises RefusedInputError if one of them is not public."""
        addresses = await self._addresses(host, port)
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """No URL has one."""
        raise RefusedInputError("is not a valid URL")

    async def sleep(self, seconds: float) -> None:
        """Wait, for the library."""
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            found = await self._resolve(host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise httpcore.ConnectError(str(error)) from error
            raise RefusedInputError("is a URL of a host that is not found") from error
        except UnicodeError as error:
            raise RefusedInputError("is not a valid URL") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        if not found:
            raise RefusedInputError("is a URL of a host that is not found")
        # all of them: a host that has private addresses beside public ones is not one of the internet
        if not all(is_public(ip_address(address)) for address in found):
            raise refused_address()
        return list(dict.fromkeys(found))[:MAX_TRIED]


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, from the system's resolver.

    On a thread of its own: the resolver may hang, and cannot be stopped. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[str]] = loop.create_future()

    def settle(found: Sequence[str], error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def ask() -> None:
        found: Sequence[str] = ()
        failure: Exception | None = None
        try:
            found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            failure = error
        # the loop may have been closed meanwhile
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, found, failure)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answer
