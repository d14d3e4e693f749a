"""Fan-out of events about generations to any number of subscribers. A slow subscriber does not delay the others.

Nor do many subscribers delay the server: events are delivered to a few at a time, with other work in between.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from server.core.generation import Generation

FEW = 8
PAUSE_SECONDS = 0.004
"""After so many deliveries there is a pause of so many seconds, in which other tasks run."""

RELIEF = 3
"""After an event of progress was delivered, the next one waits for so many times the time that this took. Subscribers
then get fewer events, and the newest progress in each."""

BACKLOG = 256
"""So many events may wait for a subscriber. Beyond that, progress is dropped; a subscription that would lose the end of
a generation is ended."""


@dataclass(frozen=True, slots=True)
class Live:
    """The state of a running generation: `progress` 0 … 1 of the whole, `eta` in seconds to its completion.

    `preview` is the number of steps after which its preview was drawn; None while there is no preview.
    """

    progress: float
    eta: float | None = None
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    preview: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A generation changed: `live` is set while it runs, and None once its status is terminal.

    `made` is a cache: a reader may keep what it makes of the event for one client, and reuse it for the next.
    """

    generation: Generation
    live: Live | None = None
    is_last: bool = True
    """Whether no other event is known to follow at once."""

    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class Subscription:
    """The events of one subscriber, in order, until the broker or the subscriber ends it."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.has_overflowed = False
        """Whether it was ended because the subscriber is too far behind."""
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(BACKLOG)

    def offer(self, event: Event) -> None:
        """Add an event, unless the subscriber is too far behind."""
        if not self._queue.full():
            self._queue.put_nowait(event)
        elif event.live is None:
            # a completion would be lost: the subscriber has to read the records
            self.has_overflowed = True
            self.end()

    def end(self) -> None:
        """Finish the iteration, now."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event


class Broker:
    """Passes events to the subscribers of the same tenant."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._observers: list[Callable[[Event], None]] = []
        self._waiting: deque[Event] = deque()
        self._delivering: asyncio.Task[None] | None = None
        self._is_urgent = asyncio.Event()
        self._closed = False

    @property
    def subscribers(self) -> int:
        """The number of subscriptions."""
        return len(self._subscriptions)

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with every event, of all tenants."""
        self._observers.append(observer)

    def publish(self, event: Event) -> None:
        """Send an event to all subscribers of the generation's tenant."""
        for observer in self._observers:
            observer(event)
        if self._delivering is None and len(self._subscriptions) <= FEW:
            for subscription in self._of(event):
                subscription.offer(event)
            return
        if event.live is not None:
            # of the progress that waits to be delivered, only the newest counts
            waiting = (each for each in self._waiting if each.generation.id != event.generation.id or each.live is None)
            self._waiting = deque(waiting)
        else:
            self._is_urgent.set()
        self._waiting.append(event)
        if self._delivering is None:
            self._delivering = asyncio.create_task(self._deliver())

    def _of(self, event: Event) -> list[Subscription]:
        return [each for each in self._subscriptions if each.tenant == event.generation.tenant]

    async def _deliver(self) -> None:
        """Deliver the waiting events one after another, and let other tasks run after every few subscribers."""
        try:
            while self._waiting:
                event = self._waiting.popleft()
                began = time.monotonic()
                for count, subscription in enumerate(self._of(event), start=1):
                    subscription.offer(event)
                    if count % FEW == 0:
                        await asyncio.sleep(PAUSE_SECONDS)
                if event.live is not None:
                    await self._pause(RELIEF * (time.monotonic() - began))
        finally:
            self._delivering = None

    async def _pause(self, seconds: float) -> None:
        """Wait for some seconds, or until there is an event that must not wait."""
        self._is_urgent.clear()
        if all(each.live is not None for each in self._waiting):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_urgent.wait()

    @contextmanager
    def subscribe(self, tenant: str) -> Iterator[Subscription]:
        """Receive events from now on, until the context ends."""
        subscription = Subscription(tenant)
        if self._closed:
            subscription.end()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def dismiss(self, may_stay: Callable[[str], bool]) -> None:
        """End the subscriptions of tenants that are no longer allowed any."""
        gone = {tenant for tenant in {each.tenant for each in self._subscriptions} if not may_stay(tenant)}
        for subscription in self._subscriptions:
            if subscription.tenant in gone:
                subscription.end()

    def close(self) -> None:
        """End all subscriptions, and later ones at once: the server is stopping."""
        self._closed = True
        if self._delivering is not None:
            self._delivering.cancel()
        for subscription in self._subscriptions:
            subscription.end()
