"""Fan-out of events about generations to any number of subscribers. A slow subscriber does not delay the others.

Nor do many subscribers delay the server: events are delivered to a few at a time, with other work in between.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from server.core.generation import Generation

FEW = 8
PAUSE_SECONDS = 0.004
"""After so many deliveries there is a pause of so many seconds, in which other tasks run."""

RELIEF = 3
"""After an event of progress was delivered, the next one waits for so many times the time that this took. Subscribers
then get fewer events, and the newest progress in each."""

BACKLOG = 256
"""So many events may wait for a subscriber, or for all streams of a tenant. Beyond that, progress is dropped; a
subscription that would lose the end of a generation is ended."""


@dataclass(frozen=True, slots=True)
class Live:
    """The state of a running generation: `progress` 0 … 1 of the whole, `eta` in seconds to its completion.

    `preview` is the number of steps after which its preview was drawn; None while there is no preview. `waits_for` is a
    sentence about what a generation waits for that no device can make.
    """

    progress: float
    eta: float | None = None
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    preview: int | None = None
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A generation changed: `live` is set while it runs, and None once its status is terminal.

    `made` is a cache: a reader may keep what it makes of the event for one client, and reuse it for the next.
    """

    generation: Generation
    live: Live | None = None
    is_last: bool = True
    """Whether no other event is known to follow at once."""

    is_elsewhere: bool = False
    """Whether another server on the same records did it."""

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
            self.fall_behind()

    def fall_behind(self) -> None:
        """End it because the subscriber does not get all events."""
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
    """Passes events to the subscribers of the same tenant. Those of one tenant do not delay another's."""

    def __init__(self) -> None:
        self._streams: dict[str, set[Subscription]] = {}
        self._waits: dict[str, set[Subscription]] = {}
        self._deliveries: dict[str, _Delivery] = {}
        self._observers: list[Callable[[Event], None]] = []
        self._closed = False

    @property
    def subscribers(self) -> int:
        """The number of subscriptions."""
        return sum(1 for _ in self._subscriptions())

    def _subscriptions(self) -> Iterator[Subscription]:
        for of_tenant in (*self._streams.values(), *self._waits.values()):
            yield from of_tenant

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with every event, of all tenants."""
        self._observers.append(observer)

    def publish(self, event: Event) -> None:
        """Send an event to all subscribers of the generation's tenant. They do not get what its request contained."""
        for observer in self._observers:
            observer(event)
        tenant = event.generation.tenant
        event = replace(event, generation=replace(event.generation, parameters={}, params=None))
        if event.live is None:
            for wait in self._waits.get(tenant, ()):
                wait.offer(event)
        streams = self._streams.get(tenant, set())
        delivery = self._deliveries.get(tenant)
        if delivery is None and len(streams) <= FEW:
            for stream in streams:
                stream.offer(event)
            return
        if delivery is None:
            delivery = self._deliveries[tenant] = _Delivery(streams, partial(self._end_delivery, tenant))
        delivery.add(event)

    def _end_delivery(self, tenant: str) -> None:
        del self._deliveries[tenant]
        if not self._streams[tenant]:
            del self._streams[tenant]

    @contextmanager
    def subscribe(self, tenant: str, *, ends_only: bool = False) -> Iterator[Subscription]:
        """Receive events from now on, until the context ends; with `ends_only` no progress, and all others at once."""
        subscription = Subscription(tenant)
        if self._closed:
            subscription.end()
        kind = self._waits if ends_only else self._streams
        of_tenant = kind.setdefault(tenant, set())
        of_tenant.add(subscription)
        try:
            yield subscription
        finally:
            of_tenant.discard(subscription)
            if not of_tenant and kind.get(tenant) is of_tenant and tenant not in self._deliveries:
                del kind[tenant]

    def fall_behind(self) -> None:
        """Have all subscribers read the records: there may have been events that nobody published here."""
        for subscription in [*self._subscriptions()]:
            subscription.fall_behind()

    def dismiss(self, may_stay: Callable[[str], bool]) -> None:
        """End the subscriptions of tenants that are no longer allowed any."""
        gone = {tenant for tenant in (*self._streams, *self._waits) if not may_stay(tenant)}
        for subscription in self._subscriptions():
            if subscription.tenant in gone:
                subscription.end()

    def close(self) -> None:
        """End all subscriptions, and later ones at once: the server is stopping."""
        self._closed = True
        for delivery in self._deliveries.values():
            delivery.cancel()
        for subscription in self._subscriptions():
            subscription.end()


class _Delivery:
    """Delivers the events of a tenant with many streams one after another, a few streams at a time."""

    def __init__(self, streams: Collection[Subscription], on_end: Callable[[], object]) -> None:
        self._streams = streams
        self._on_end = on_end
        self._waiting: deque[Event] = deque()
        self._is_urgent = asyncio.Event()
        self._task = asyncio.create_task(self._deliver())

    def add(self, event: Event) -> None:
        """Deliver an event after those that wait."""
        if event.live is not None:
            # of the progress that waits to be delivered, only the newest counts
            waiting = (each for each in self._waiting if each.generation.id != event.generation.id or each.live is None)
            self._waiting = deque(waiting)
        else:
            self._is_urgent.set()
        self._waiting.append(event)
        if len(self._waiting) > BACKLOG:
            # the subscribers have to read the records
            self._waiting.clear()
            for stream in [*self._streams]:
                stream.fall_behind()

    def cancel(self) -> None:
        """Deliver no more."""
        self._task.cancel()

    async def _deliver(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.popleft()
                began = time.monotonic()
                for count, stream in enumerate([*self._streams], start=1):
                    stream.offer(event)
                    if count % FEW == 0:
                        await asyncio.sleep(PAUSE_SECONDS)
                if event.live is not None:
                    await self._pause(RELIEF * (time.monotonic() - began))
        finally:
            self._on_end()

    async def _pause(self, seconds: float) -> None:
        """Wait for some seconds, or until there is an event that must not wait."""
        self._is_urgent.clear()
        if all(each.live is not None for each in self._waiting):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_urgent.wait()
