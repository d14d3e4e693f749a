"""uvicorn's HTTP connections with a time and a size limit for request heads; uvicorn itself waits forever.

Without limits a client that opens connections and sends a byte now and then could use up the server's file descriptors.
Request bodies have their own limit, `body_timeout`. Connections that are idle after a response have uvicorn's.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed if a request's head is not complete within `head_timeout` seconds.

    It is also closed if the head is larger than MAX_HEAD_BYTES: the parser itself has no limit.
    """

    head_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._received = 0
        """Bytes since the last complete head or body part; the current head has at least as many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self._received > MAX_HEAD_BYTES:
            self._close()
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            # any bytes after a response stop uvicorn's idle timer, even if they begin no request
            self._start_timer()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._received = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._received = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout, self._close)

    def _stop_timer(self) -> None:
        self._received = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.close()


def protocol_class(head_timeout: float) -> type[BoundedProtocol]:
    """Return the protocol class for uvicorn, with a limit of `head_timeout` seconds."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_timeout": head_timeout})
