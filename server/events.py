"""Fan-out of what happens to generations, to any number of subscribers, none of whom can hold up another."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.generations import Generation

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
    """A generation changed: `live` is set while it runs, and None once its status is terminal."""

    generation: Generation
    live: Live | None = None


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
        for subscription in tuple(self._subscriptions):
            if subscription.tenant == event.generation.tenant:
                subscription.offer(event)

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

    def close(self) -> None:
        """End every subscription, and those still to come: the server is stopping."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
