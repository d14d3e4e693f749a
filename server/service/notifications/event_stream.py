"""The events of one subscriber: progress as it comes, and completions in the order of their numbers, none twice.

Completions are numbered in the records, for each tenant without gaps. An event from the broker with a number that is
not the next one shows that others were committed before it: they are read from the records first.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.core.events import Broker, Event, Subscription
from server.core.generation import Generation
from server.storage.db.statements.history import History

_CLOCKS_DIFFER = 2.0
"""So many seconds the clocks of several servers may differ."""

_REMEMBERED = 1024
"""Of so many generations whose end was told last, no progress is told: it was published before the end."""

_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Position:
    """A stream begins after the completion with this number."""

    number: int


class EventStream:
    """Events of one tenant. A new stream begins with the completions of the last `replay` seconds."""

    def __init__(self, history: History, broker: Broker, tenant: str, replay: float) -> None:
        self._history = history
        self._broker = broker
        self._tenant = tenant
        self._replay = replay
        self._number = 0
        self._ended: OrderedDict[str, None] = OrderedDict()

    async def events(self, last_event_id: str | None = None) -> AsyncIterator[Event | Position]:
        """The events until the broker ends the stream, after those that follow `last_event_id`.

        An id that is unknown, as after a change of the database, begins a new stream.
        """
        is_new = True
        while True:
            with self._broker.subscribe(self._tenant) as subscription:
                if is_new:
                    yield await self._begin(last_event_id)
                    is_new = False
                async for event in self._missed():
                    yield event
                async for event in self._follow(subscription):
                    yield event
                if not subscription.has_overflowed:
                    return

    async def _begin(self, last_event_id: str | None) -> Position:
        now = time.time()
        # what was completed in the future was completed before the clock was set back, and need not be recent
        since, newest = await self._history.event_numbers(now - self._replay, now + _CLOCKS_DIFFER, self._tenant)
        number = _number(last_event_id)
        if number is not None and number <= newest:
            since = number
        self._number = since
        return Position(since)

    async def _missed(self) -> AsyncIterator[Event]:
        """The completions that are recorded and not told yet."""
        while missed := await self._history.completed_after(self._number, self._tenant):
            for generation in missed:
                self._told(generation)
                yield Event(generation, is_last=generation is missed[-1])

    async def _follow(self, subscription: Subscription) -> AsyncIterator[Event]:
        async for event in subscription:
            number = event.generation.event_number
            if event.live is not None:
                if event.generation.id not in self._ended:
                    yield event
            elif number is None:
                # it was cancelled
                self._told(event.generation)
                yield event
            elif number == self._number + 1:
                self._told(event.generation)
                yield event
            elif number > self._number:
                async for missed in self._missed():
                    yield missed
                # rows that are removed leave gaps
                self._number = max(self._number, number)

    def _told(self, generation: Generation) -> None:
        self._number = max(self._number, generation.event_number or 0)
        self._ended[generation.id] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)


def _number(last_event_id: str | None) -> int | None:
    if last_event_id is None or not (last_event_id.isascii() and last_event_id.isdigit()):
        return None
    return int(last_event_id) if len(last_event_id) <= _MAX_DIGITS else None
