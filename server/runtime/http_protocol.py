"""uvicorn's HTTP connections within limits of time, size and number; uvicorn itself has almost none.

Without limits a client could use up the server's memory or file descriptors: with connections on which it sends a byte
now and then, with requests whose answers it never reads, or simply with very many connections. Request bodies have
their own limit, `body_timeout`. Connections that are idle after a response have uvicorn's.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.api.middleware import MAX_HEADERS
from server.runtime.active_requests import ActiveRequest, ActiveRequests
from server.runtime.connections import ConnectionLimits
from server.runtime.http10 import without_chunks

MAX_HEAD_BYTES = 64 * 1024

MAX_PIPELINED = 16
"""Limit of requests that wait for the answers before them. Browsers and libraries send none. After the limit the
connection is closed: a client has to send the others again."""

WRITE_SECONDS = 300.0
"""A connection is closed if its client reads nothing for so long while an answer waits: a paused video may."""

_REFUSAL = b"The server has too many open connections from your address, or in all. Close some, and try again.\n"


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed if a request's head is not complete within `head_timeout` seconds.

    It is also closed if the head is larger than MAX_HEAD_BYTES: the parser itself has no limit. So is one whose client
    does not read, and, after its answers, one with MAX_PIPELINED requests that wait for their turn.
    """

    head_timeout: float
    limits: ConnectionLimits
    active_requests: ActiveRequests

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._active: ActiveRequest | None = None
        self._address = ""
        self._has_last_request = False
        """Whether the newest request is the last one that is answered."""
        self._is_ignoring = False
        """Whether what is received is dropped: it follows the last request."""
        self._received = 0
        """Bytes since the last complete head or body part; the current head has at least as many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if self.limits.open(self._address):
            self._start_timer()
        else:
            size = str(len(_REFUSAL)).encode()
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 5\r\n"
                b"Connection: close\r\nContent-Length: " + size + b"\r\n\r\n" + _REFUSAL
            )
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._is_ignoring:
            return
        self._received += len(data)
        super().data_received(data)
        if self._received > MAX_HEAD_BYTES:
            self._close()
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            # any bytes after a response stop uvicorn's idle timer, even if they begin no request
            self._start_timer()

    def on_message_begin(self) -> None:
        self._is_ignoring = self._has_last_request
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # one more than is accepted shows that there are too many; no route reads cookies, which could be thousands
        if len(self.headers) <= MAX_HEADERS and name.lower() != b"cookie":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        if self._drops:
            return
        super().on_headers_complete()
        if len(self.pipeline) == MAX_PIPELINED:
            self.cycle.keep_alive = False
            self._has_last_request = True

    def on_body(self, body: bytes) -> None:
        self._received = 0
        if not self._drops:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._received = 0
        if not self._drops:
            super().on_message_complete()

    @property
    def _drops(self) -> bool:
        """Whether the rest of what was received together is dropped."""
        return self._is_ignoring or self.transport.is_closing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            # uvicorn reads on after each answer, and so collects more requests than it answers
            self.flow.pause_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(cycle, app)
        start = super()._start_asgi_task

        def begin(counted: Any) -> None:
            start(cycle, counted)

        self._active = ActiveRequest(self.active_requests, self._address, self.loop, app, begin)
        self._active.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_write_timer()
        self.limits.close(self._address)
        self.pipeline.clear()
        if self._active is not None:
            self._active.withdraw()
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:
            # uvicorn tells the last request only, which may still wait for its turn
            running.disconnected = True
            running.message_event.set()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout, self._close)

    def _stop_timer(self) -> None:
        self._received = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _close(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.close()

    def _abort(self) -> None:
        """Close without sending what waits to be sent: the client does not read it."""
        self._stop_timer()
        self.transport.abort()


def protocol_class(head_timeout: float, limits: ConnectionLimits) -> type[BoundedProtocol]:
    """Return the protocol class for uvicorn, with a limit of `head_timeout` seconds and limits of connections."""
    shared = {"head_timeout": head_timeout, "limits": limits, "active_requests": ActiveRequests()}
    return type("BoundedProtocol", (BoundedProtocol,), shared)
