"""Bounds the records of requests that failed at once: the limits of the queue do not count them, as none waits."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable

HOUR = 3600.0

_TENANTS = 10_000
"""So many tenants are remembered, those that failed last."""


class FailedRequests:
    """Counts the generations of each tenant that failed as they were submitted, over the last hour of this process."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._failures: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def wait(self, tenant: str, count: int) -> float | None:
        """Return None if so many more may fail now, else the seconds until they may. One request always may."""
        failures = self._recent(tenant)
        excess = sum(number for _, number in failures) + count - self._limit
        if excess <= 0 or not failures:
            return None
        free_at = failures[-1][0]
        for moment, number in failures:
            excess -= number
            if excess <= 0:
                free_at = moment
                break
        return max(1.0, free_at + HOUR - self._clock())

    def note(self, tenant: str, count: int) -> None:
        """Count failures."""
        self._recent(tenant).append((self._clock(), count))

    def _recent(self, tenant: str) -> deque[tuple[float, int]]:
        failures = self._failures.setdefault(tenant, deque())
        self._failures.move_to_end(tenant)
        while len(self._failures) > _TENANTS:
            self._failures.popitem(last=False)
        while failures and failures[0][0] <= self._clock() - HOUR:
            failures.popleft()
        return failures
