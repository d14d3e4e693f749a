"""uvicorn's HTTP connections within limits of time, size and number; uvicorn itself has almost none.

Without limits a client could use up the server's memory or file descriptors: with connections on which it sends a byte
now and then, with requests whose answers it never reads, or simply with very many connections. Request bodies have
their own limit, `body_timeout`. Connections that are idle after a response have uvicorn's.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.core.errors import InvalidParamsError
from server.runtime.http.active_requests import ActiveRequest, ActiveRequests
from server.runtime.http.connections import ConnectionLimits
from server.runtime.http.forwarded import TrustedProxies, counted_as, plain_address
from server.runtime.http.http10 import without_chunks
from server.runtime.http.parsing import HeldFlow, ParsingTurns

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_QUERY_PARAMETERS = 100

MAX_CHUNKS = 1024
CHUNK_BYTES = 256
"""Limits of the parts in which a body arrives: MAX_CHUNKS, and one more for each CHUNK_BYTES of it. Parsing a chunk
takes about as long whatever its size.
"""

MAX_UNREAD_BODY = 64 * 1024 * 1024
"""A connection is closed if more of a body arrives after its request has been refused. Up to this, clients and proxies
that read no answer before they have sent all get one.
"""

MAX_BODY_AHEAD = 128 * 1024
"""A connection is closed if more of the body of a request arrives that waits for the answers before it."""

LINGER_SECONDS = 1.0
"""A connection on which a request is refused is closed so much later: closed at once, the answer could be lost."""

MAX_PIPELINED = 16
"""Limit of requests that wait for the answers before them. Browsers and libraries send none. After the limit the
connection is closed: a client has to send the others again."""

WRITE_SECONDS = 300.0
"""A connection is closed if its client reads nothing for so long while an answer waits: a paused video may."""

_REFUSAL = "The server has too many open connections from your address, or in all. Close some, and try again.\n"
_RETRY_SECONDS = 5


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed if a request's head is not complete within `head_timeout` seconds.

    It is also closed, with an answer that says why, if the head is too large: the parser itself has no limit. So is one
    whose client does not read, and, after its answers, one with MAX_PIPELINED requests that wait for their turn.
    """

    head_timeout: float
    limits: ConnectionLimits
    proxies: TrustedProxies
    active_requests: ActiveRequests
    turns: ParsingTurns
    flow: HeldFlow

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._active: ActiveRequest | None = None
        self._peer = self._address = ""
        self._counted = ""
        """The address for which the connection counts: its own, or while a request runs, that of its client."""
        self._has_last_request = False
        """Whether the newest request is the last one that is answered."""
        self._is_ignoring = False
        """Whether what is received is dropped: it follows the last request."""
        self._received = 0
        """Bytes since the last complete head or body part; the current head has at least as many."""
        self._headers = 0
        """How many headers the current head has so far."""
        self._chunks = 0.0
        """In how many parts the current body has arrived so far, less those that its size allows."""
        self._unread_body = 0
        """Bytes of the current body that have arrived after the answer."""
        self._has_head = False
        """Whether the current head is complete: what follows a body in chunks are no headers."""
        self._refusal: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = HeldFlow(transport)
        if self.client:
            self.client = plain_address(self.client[0]), self.client[1]
            self._peer = self.client[0]
            self._address = self._counted = counted_as(self._peer)
        if self.limits.open(self._address):
            self._start_timer()
        else:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: %d\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
                % (_RETRY_SECONDS, len(_REFUSAL), _REFUSAL.encode())
            )
            transport.close()

    @property
    def turn_of(self) -> str:
        """The address for which parsing counts."""
        return self._counted

    def data_received(self, data: bytes) -> None:
        # it is not idle, even if it waits to be parsed
        self._unset_keepalive_if_required()
        self.turns.received(self, data)

    def parse(self, data: bytes) -> None:
        """Parse what was received, and act on it."""
        for start in range(0, len(data), MAX_HEAD_BYTES):
            if self.transport.is_closing() or self._is_ignoring:
                return
            part = data[start : start + MAX_HEAD_BYTES]
            self._received += len(part)
            super().data_received(part)
            if self._received > MAX_HEAD_BYTES and not self._drops:
                self._refusal = f"The URL and the headers must have at most {MAX_HEAD_BYTES} bytes."
                self.send_400_response("")
        if self._head_timer is None and not self._drops and (self.cycle is None or self.cycle.response_complete):
            # any bytes after a response stop uvicorn's idle timer, even if they begin no request
            self._start_timer()

    def on_message_begin(self) -> None:
        self._is_ignoring = self._has_last_request
        self._headers = self._unread_body = 0
        self._chunks = 0.0
        self._has_head = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > MAX_HEADERS:
            self._refuse(f"The request must have at most {MAX_HEADERS} headers.")
        if not self._has_head and name.lower() != b"cookie":
            # no route reads cookies, of which one could be thousands
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._has_head = True
        if self._drops:
            return
        if self.url.count(b"&") >= MAX_QUERY_PARAMETERS:
            self._refuse(f"The URL must have at most {MAX_QUERY_PARAMETERS} query parameters.")
        super().on_headers_complete()
        if len(self.pipeline) == MAX_PIPELINED:
            self.cycle.keep_alive = False
            self._has_last_request = True

    def on_body(self, body: bytes) -> None:
        self._received = 0
        if self._drops:
            return
        self._chunks += 1.0 - len(body) / CHUNK_BYTES
        if self._chunks > MAX_CHUNKS:
            self._refuse(f"The body must arrive in larger parts: {CHUNK_BYTES} bytes or more.")
        if self.cycle.response_complete:
            self._unread_body += len(body)
            if self._unread_body > MAX_UNREAD_BODY:
                self._close()
        super().on_body(body)
        if self.cycle is not self._running and len(self.cycle.body) > MAX_BODY_AHEAD:
            self._close()

    def on_message_complete(self) -> None:
        self._received = 0
        if not self._drops:
            super().on_message_complete()

    @property
    def _drops(self) -> bool:
        """Whether the rest of what was received together is dropped."""
        return self._is_ignoring or self.transport.is_closing()

    def _refuse(self, sentence: str) -> None:
        """End the parser, which then calls `send_400_response`."""
        self._refusal = sentence
        raise InvalidParamsError(sentence)

    def send_400_response(self, msg: str) -> None:
        """Answer that the request is no HTTP or that its head is too large, and close the connection."""
        self._stop_timer()
        self._is_ignoring = True
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.more_body:
                # it came after a whole request, which is still answered
                self.cycle.keep_alive = False
                return
            if self.cycle.response_started or self.cycle is not self._running:
                self.transport.close()
                return
            self._end_running()
        error = InvalidParamsError(self._refusal or "The request is not valid HTTP.")
        content = json.dumps(error.body).encode()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(LINGER_SECONDS, self._close)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a client that sends no more but still reads, if it can be answered soon: most others have left."""
        self.parse(self.flow.release())
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.response_started:
            return None
        cycle.keep_alive = False
        self._stop_timer()
        self._head_timer = self.loop.call_later(LINGER_SECONDS, self._close_unanswered)
        return True

    def on_response_complete(self) -> None:
        self._count_for(self._address)
        super().on_response_complete()
        if self.pipeline:
            # uvicorn reads on after each answer, and so collects more requests than it answers
            self.flow.pause_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        client = counted_as(self.proxies.client_of(self._peer, cycle.scope["headers"]))
        if not self._count_for(client):
            app = PlainTextResponse(_REFUSAL, 503, {"Retry-After": str(_RETRY_SECONDS)})
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(cycle, app)
        start: Callable[[RequestResponseCycle, Any], None] = super()._start_asgi_task

        def begin() -> None:
            start(cycle, active.counting(app))

        active = self._active = ActiveRequest(self.active_requests, client, self.loop, cycle.message_event, begin)
        active.start()

    def _count_for(self, address: str) -> bool:
        """Count the connection for this address, and return whether that may have it. Its own may: it is open."""
        if address == self._counted:
            return True
        self.limits.close(self._counted)
        self._counted = address
        return self.limits.open(address) or address == self._address

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
        self.limits.close(self._counted)
        # an answer that is complete later changes no count
        self._counted = self._address
        self.pipeline.clear()
        super().connection_lost(exc)
        # uvicorn tells the last request only, which may still wait for its turn
        self._end_running()

    def _end_running(self) -> None:
        """Tell the running request that nobody waits for its answer."""
        if self._active is not None:
            self._active.withdraw()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

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

    def _close_unanswered(self) -> None:
        """Close unless the answer to the newest request has begun."""
        if not self.cycle.response_started:
            self._close()

    def _abort(self) -> None:
        """Close without sending what waits to be sent: the client does not read it."""
        self._stop_timer()
        self.transport.abort()


def protocol_class(head_timeout: float, limits: ConnectionLimits, proxies: TrustedProxies) -> type[BoundedProtocol]:
    """Return the protocol class for uvicorn, with a limit of `head_timeout` seconds and limits of connections.

    A connection of one of `proxies` counts for the client of the request that runs on it.
    """
    shared = {
        "head_timeout": head_timeout,
        "limits": limits,
        "proxies": proxies,
        "active_requests": ActiveRequests(),
        "turns": ParsingTurns(),
    }
    return type("BoundedProtocol", (BoundedProtocol,), shared)
