"""Bounds the records of requests that no device worked on: the limits of the queue do not count them, as none waits."""

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from math import ceil

from server.core.errors import QueueFullError
from server.core.generation import Generation
from server.core.settings import QueueSettings

HOUR = 3600.0

_TENANTS = 10_000
"""So many tenants are remembered, those that were counted last."""

_ROW_BYTES = 1024
"""What a record takes besides the parameters of its request."""


class HourlyLimit:
    """Adds up amounts of each tenant over the last hour of this process."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._amounts: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def wait(self, tenant: str, amount: int) -> float | None:
        """Return None if so much more may be added now, else the seconds until it may. Any first amount may."""
        amounts = self._recent(tenant)
        excess = sum(each for _, each in amounts) + amount - self._limit
        if excess <= 0 or not amounts:
            return None
        free_at = amounts[-1][0]
        for moment, each in amounts:
            excess -= each
            if excess <= 0:
                free_at = moment
                break
        return max(1.0, free_at + HOUR - self._clock())

    def add(self, tenant: str, amount: int) -> None:
        """Add an amount; a negative one takes back."""
        amounts, now = self._recent(tenant), self._clock()
        if amounts and now - amounts[-1][0] < 1:
            # one entry a second, so that there are not too many
            now, before = amounts.pop()
            amount += before
        amounts.append((now, amount))

    def _recent(self, tenant: str) -> deque[tuple[float, int]]:
        amounts = self._amounts.setdefault(tenant, deque())
        self._amounts.move_to_end(tenant)
        while len(self._amounts) > _TENANTS:
            self._amounts.popitem(last=False)
        while amounts and amounts[0][0] <= self._clock() - HOUR:
            amounts.popleft()
        return amounts


class RecordLimits:
    """How many generations of a tenant may fail as they are submitted, and how large those may be that it cancels."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._failed = HourlyLimit(settings.max_failed_per_hour)
        self._cancelled = HourlyLimit(settings.max_cancelled_bytes_per_hour)

    def check(self, tenant: str) -> None:
        """Raise QueueFullError if a tenant has cancelled so much that it may submit nothing for now."""
        if (wait := self._cancelled.wait(tenant, 0)) is not None:
            raise QueueFullError(
                f"Within an hour, generations with more than {self._settings.max_cancelled_bytes_per_hour} bytes in "
                "all were cancelled before they started: this is the limit.",
                ceil(wait),
            )

    def add_failed(self, tenant: str, count: int) -> None:
        """Count generations that fail, before they are recorded: others are submitted meanwhile.

        Raises QueueFullError if there are too many. A negative count takes back.
        """
        if count > 0 and (wait := self._failed.wait(tenant, count)) is not None:
            raise QueueFullError(
                f"{self._settings.max_failed_per_hour} requests with invalid parameters were recorded within an hour: "
                "this is the limit.",
                ceil(wait),
            )
        if count:
            self._failed.add(tenant, count)

    def note_cancelled(self, generation: Generation) -> None:
        """Count a generation that was cancelled before its first attempt."""
        self._cancelled.add(generation.tenant, _ROW_BYTES + len(json.dumps(generation.parameters)))
