"""How many requests of one address are worked on at a time. The rest waits, so that other addresses need not."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from server.runtime.http10 import App, Message, Send

MAX_ACTIVE = 4
"""Limit of one address. The server has one event loop: more at a time are not done sooner."""

ACTIVE_SECONDS = 0.1
"""A request that has no answer after so long waits for something, such as a video, and does not count any more."""


class ActiveRequests:
    """Starts the requests of an address in their order, each when fewer than MAX_ACTIVE others are worked on."""

    def __init__(self) -> None:
        self._active: Counter[str] = Counter()
        self._waiting: dict[str, OrderedDict[ActiveRequest, None]] = {}

    def start(self, request: "ActiveRequest") -> None:
        """Let a request begin now, or when it is its turn."""
        if self._active[request.address] < MAX_ACTIVE:
            self._active[request.address] += 1
            request.begin()
        else:
            self._waiting.setdefault(request.address, OrderedDict())[request] = None

    def withdraw(self, request: "ActiveRequest") -> None:
        """Forget a request that waits for its turn."""
        waiting = self._waiting.get(request.address, OrderedDict())
        waiting.pop(request, None)
        if not waiting:
            self._waiting.pop(request.address, None)

    def end(self, address: str) -> None:
        """Count a request no more, and let the next one of its address begin."""
        if waiting := self._waiting.get(address):
            request = next(iter(waiting))
            self.withdraw(request)
            request.begin()
            return
        self._active[address] -= 1
        if not self._active[address]:
            del self._active[address]


class ActiveRequest:
    """A request that counts from its beginning until its answer begins, or it ends, or ACTIVE_SECONDS have passed."""

    def __init__(
        self,
        requests: ActiveRequests,
        address: str,
        loop: asyncio.AbstractEventLoop,
        app: App,
        begin: Callable[[App], None],
    ) -> None:
        """`begin` starts an application that answers the request as `app` does."""
        self.address = address
        self._requests = requests
        self._loop = loop
        self._app = app
        self._begin = begin
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin when it is its turn."""
        self._requests.start(self)

    def begin(self) -> None:
        """Begin, and count from now."""
        self._timer = self._loop.call_later(ACTIVE_SECONDS, self._end)
        self._begin(self._answer)

    def withdraw(self) -> None:
        """Do not begin if it is not its turn yet."""
        self._requests.withdraw(self)

    async def _answer(self, scope: Any, receive: Any, send: Send) -> None:
        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._end()
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._requests.end(self.address)
