"""Fan-out of what happens to generations, to any number of subscribers, none of whom can hold up another.

Nor do all together hold up the server: they are told a few at a time, and others have their turn in between.
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
"""So many subscribers are told at a time, and then nobody for so long, for all others to have their turn."""

RELIEF = 3
"""So many times as long as telling of progress took is waited before the next is told: who is told less often is told
the newest."""

BACKLOG = 256
"""Events a subscriber may be behind. Beyond, progress is left out; a subscriber that is behind on more is let go."""


@dataclass(frozen=True, slots=True)
class Live:
    """How a running generation is doing: `progress` 0 … 1 of the whole, `eta` in seconds to its completion.

    `preview` is the number of steps that its picture shows the result of; None while there is no picture.
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

    What a reader makes of it for one client it may leave in `made` for the next.
    """

    generation: Generation
    live: Live | None = None
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class Subscription:
    """One subscriber's events, in order, until the broker or the subscriber ends it."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(BACKLOG)

    def offer(self, event: Event) -> None:
        """Hand over an event, unless the subscriber is too far behind."""
        if not self._queue.full():
            self._queue.put_nowait(event)
        elif event.live is None:
            # it cannot be told of a completion: ended, it reconnects and gets what it missed replayed
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
        self._telling: asyncio.Task[None] | None = None
        self._is_urgent = asyncio.Event()
        self._closed = False

    @property
    def subscribers(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Have somebody of the server's own told of every event, whoever's it is."""
        self._observers.append(observer)

    def publish(self, event: Event) -> None:
        """Tell every subscriber of the generation's tenant."""
        for observer in self._observers:
            observer(event)
        if self._telling is None and len(self._subscriptions) <= FEW:
            for subscription in self._of(event):
                subscription.offer(event)
            return
        if event.live is not None:
            # who is told late is told the newest only
            waiting = (each for each in self._waiting if each.generation.id != event.generation.id or each.live is None)
            self._waiting = deque(waiting)
        else:
            self._is_urgent.set()
        self._waiting.append(event)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    def _of(self, event: Event) -> list[Subscription]:
        return [each for each in self._subscriptions if each.tenant == event.generation.tenant]

    async def _tell(self) -> None:
        """Tell many subscribers, event after event, and let others have their turn after every few."""
        try:
            while self._waiting:
                event = self._waiting.popleft()
                began = time.monotonic()
                for told, subscription in enumerate(self._of(event), start=1):
                    subscription.offer(event)
                    if told % FEW == 0:
                        await asyncio.sleep(PAUSE_SECONDS)
                if event.live is not None:
                    await self._rest(RELIEF * (time.monotonic() - began))
        finally:
            self._telling = None

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until there is something to tell that cannot wait."""
        self._is_urgent.clear()
        if all(each.live is not None for each in self._waiting):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_urgent.wait()

    @contextmanager
    def subscribe(self, tenant: str) -> Iterator[Subscription]:
        """Listen from now on."""
        subscription = Subscription(tenant)
        if self._closed:
            subscription.end()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def dismiss(self, may_stay: Callable[[str], bool]) -> None:
        """End the subscriptions of tenants who may listen no more."""
        gone = {tenant for tenant in {each.tenant for each in self._subscriptions} if not may_stay(tenant)}
        for subscription in self._subscriptions:
            if subscription.tenant in gone:
                subscription.end()

    def close(self) -> None:
        """End every subscription, and those still to come: the server is stopping."""
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
        for subscription in self._subscriptions:
            subscription.end()
