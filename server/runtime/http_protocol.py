"""uvicorn's connections, with a bound on what a client may take to say what it wants: uvicorn itself waits for ever.

Without one, whoever opens connections and sends a byte now and then holds as many of the server's descriptors as it
likes. Bodies have a bound of their own, `body_timeout`; a connection that is idle after an answer has uvicorn's.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed unless a request's head has come, whole, `head_timeout` seconds after it may begin.

    So is one whose head is larger than MAX_HEAD_BYTES: the parser would keep any number.
    """

    head_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: asyncio.TimerHandle | None = None
        self._came = 0
        """Bytes since the last of a request: as many of a head at least."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        super().data_received(data)
        if self._came > MAX_HEAD_BYTES:
            self._close()
        elif self._awaited is None and (self.cycle is None or self.cycle.response_complete):
            # what came after an answer has ended uvicorn's own wait, whether or not it begins a request
            self._await_head()

    def on_headers_complete(self) -> None:
        self._forget()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._came = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._came = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._awaited = self.loop.call_later(self.head_timeout, self._close)

    def _forget(self) -> None:
        self._came = 0
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _close(self) -> None:
        self._forget()
        if not self.transport.is_closing():
            self.transport.close()


def protocol(head_timeout: float) -> type[BoundedProtocol]:
    """The connections of a server that waits so long, in seconds, for a request's head."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_timeout": head_timeout})
