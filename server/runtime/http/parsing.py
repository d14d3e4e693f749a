"""How long the connections of one address may be parsed before it is the turn of other addresses."""

import asyncio
import time
from collections import defaultdict, deque
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl

TURN_SECONDS = 0.002
"""Limit of one address in one pass of the event loop. The rest of what it sent waits for the next pass."""


class Parsed(Protocol):
    """A connection as `ParsingTurns` needs it."""

    flow: "HeldFlow"

    @property
    def turn_of(self) -> str:
        """The address for which its parsing counts."""

    def parse(self, data: bytes) -> None:
        """Parse what was received, and act on it."""


class HeldFlow(FlowControl):
    """uvicorn's flow control, which reads nothing either while something that was received waits to be parsed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._held: list[bytes] = []

    def pause_reading(self) -> None:
        if not self._held:
            super().pause_reading()
        self.read_paused = True

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()
        self.read_paused = False

    @property
    def is_holding(self) -> bool:
        """Whether something waits to be parsed."""
        return bool(self._held)

    def hold(self, data: bytes) -> None:
        """Let what was received wait."""
        if not self._held and not self.read_paused and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held.append(data)

    def release(self) -> bytes:
        """Return what waits, and read on unless uvicorn paused that, too."""
        data = b"".join(self._held)
        if self._held:
            self._held = []
            if not self.read_paused and not self._transport.is_closing():
                self._transport.resume_reading()
        return data


class ParsingTurns:
    """Parses what connections receive: at once, or when its address has its next turn.

    One pass of the event loop takes at most about TURN_SECONDS for each address, however many connections it has and
    however long it takes to parse what it sends.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        """By address: how long its connections were parsed in this pass."""
        self._waiting: dict[str, deque[Parsed]] = {}
        self._is_scheduled = False

    def received(self, connection: Parsed, data: bytes) -> None:
        """Parse what a connection received, now or later."""
        address = connection.turn_of
        if connection.flow.is_holding:
            connection.flow.hold(data)
        elif address in self._waiting or self._seconds[address] >= TURN_SECONDS:
            connection.flow.hold(data)
            self._waiting.setdefault(address, deque()).append(connection)
        else:
            self._parse(connection, address, data)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._next_pass)

    def _parse(self, connection: Parsed, address: str, data: bytes) -> None:
        began = time.perf_counter()
        try:
            connection.parse(data)
        finally:
            self._seconds[address] += time.perf_counter() - began

    def _next_pass(self) -> None:
        """Give each address that waits its turn. Goes on until none does."""
        self._seconds.clear()
        self._is_scheduled = bool(self._waiting)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._next_pass)
        for address, waiting in list(self._waiting.items()):
            while waiting and self._seconds[address] < TURN_SECONDS:
                connection = waiting.popleft()
                # nothing is left of one that was closed, or has got its end meanwhile
                if data := connection.flow.release():
                    self._parse(connection, address, data)
            if not waiting:
                del self._waiting[address]
