"""How many requests of one address are worked on at a time. The rest waits, so that other addresses need not."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from server.runtime.http.http10 import App, Message, Receive, Send

MAX_ACTIVE = 4
"""Limit of one address. The server has one event loop: more at a time are not done sooner."""

MAX_ACTIVE_IN_ALL = 8
"""Addresses share so many, but each has one: a request waits in each pass of the event loop for all others."""

ACTIVE_SECONDS = 0.1
"""A request that has no answer after so long waits for something, such as a video, and does not count any more."""


class ActiveRequests:
    """Starts the requests of an address in their order, each when few enough others of it are worked on."""

    def __init__(self) -> None:
        self._active: Counter[str] = Counter()
        self._waiting: dict[str, OrderedDict[ActiveRequest, None]] = {}

    def start(self, request: "ActiveRequest", *, first: bool = False) -> None:
        """Let a request begin now, or when it is its turn: after those that wait already, or as the `first`."""
        if self._has_room(request.address):
            self._begin(request)
        else:
            waiting = self._waiting.setdefault(request.address, OrderedDict())
            waiting[request] = None
            waiting.move_to_end(request, last=not first)

    def withdraw(self, request: "ActiveRequest") -> None:
        """Forget a request that waits for its turn."""
        waiting = self._waiting.get(request.address, OrderedDict())
        waiting.pop(request, None)
        if not waiting:
            self._waiting.pop(request.address, None)

    def end(self, address: str) -> None:
        """Count a request no more, and let the next ones of its address begin."""
        self._active[address] -= 1
        if not self._active[address]:
            del self._active[address]
        while self._has_room(address) and (waiting := self._waiting.get(address)):
            request = next(iter(waiting))
            self.withdraw(request)
            self._begin(request)

    def _has_room(self, address: str) -> bool:
        """Whether an address may have one more."""
        active = self._active[address]
        share = MAX_ACTIVE_IN_ALL // (len(self._active) + (not active))
        return active < max(1, min(MAX_ACTIVE, share))

    def _begin(self, request: "ActiveRequest") -> None:
        self._active[request.address] += 1
        request.begin()


class ActiveRequest:
    """A request that counts from its beginning until its answer begins, or it ends, or ACTIVE_SECONDS have passed.

    It does not count while it waits for the rest of its body, which may never come.
    """

    def __init__(
        self,
        requests: ActiveRequests,
        address: str,
        loop: asyncio.AbstractEventLoop,
        arrived: asyncio.Event,
        begin: Callable[[], None],
    ) -> None:
        """`begin` starts the application, `arrived` is set while something that has come was not received."""
        self.address = address
        self._requests = requests
        self._loop = loop
        self._arrived = arrived
        self._begin = begin
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Future[None] | None = None
        self._is_answered = False

    def start(self) -> None:
        """Begin when it is its turn."""
        self._requests.start(self)

    def begin(self) -> None:
        """Begin, or go on, and count from now."""
        self._timer = self._loop.call_later(ACTIVE_SECONDS, self._end)
        self._begin()

    def withdraw(self) -> None:
        """Do not begin if it is not its turn yet. One that has begun goes on without counting."""
        self._requests.withdraw(self)
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def counting(self, app: App) -> App:
        """The application that answers as `app` does, and counts meanwhile."""

        async def answer(scope: Any, receive: Receive, send: Send) -> None:
            async def receive_counted() -> Message:
                if self._timer is None or self._arrived.is_set():
                    return await receive()
                self._end()
                message = await receive()
                if message["type"] == "http.request" and not self._is_answered:
                    await self._go_on()
                return message

            async def send_counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._is_answered = True
                    self._end()
                await send(message)

            try:
                await app(scope, receive_counted, send_counted)
            finally:
                self._end()

        return answer

    async def _go_on(self) -> None:
        """Wait until it is its turn again, before those that have not begun."""
        turn = self._turn = self._loop.create_future()
        # one that is cancelled at this moment gives its turn back at its end
        self._begin = lambda: None if turn.done() else turn.set_result(None)
        self._requests.start(self, first=True)
        try:
            await turn
        finally:
            self._requests.withdraw(self)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._requests.end(self.address)
