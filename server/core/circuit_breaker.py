"""When a failing device is tried again, and whether it counts as healthy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

_LONGEST_BACKOFF = 60.0
_LONGEST_COOLDOWN = 900.0
_DOUBLINGS = 16


class Health(StrEnum):
    """Whether a device takes generations. Half open, it takes one whose result decides."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`failures` in a row make a device unhealthy; it is tried again after `cooldown` seconds, doubled each time."""

    failures: int = 5
    cooldown: float = 60.0


class CircuitBreaker:
    """Counts the consecutive failures of one device; only a finished generation sets the count back.

    A generation that fails several times counts once, since it may itself be the cause.
    """

    def __init__(self, tolerance: Tolerance, clock: Callable[[], float] = time.monotonic) -> None:
        self._tolerance = tolerance
        self._clock = clock
        self._failed: set[str] = set()
        self._in_a_row = 0
        self._openings = 0
        self._blocked = 0
        self._until = 0.0
        self.failures = 0
        self.reason: str | None = None

    @property
    def health(self) -> Health:
        """The state now."""
        if self._openings == 0:
            return Health.HEALTHY
        return Health.UNHEALTHY if self.wait > 0 else Health.HALF_OPEN

    @property
    def wait(self) -> float:
        """Seconds until the device may be given a generation again."""
        return max(0.0, self._until - self._clock())

    def failed(self, about: str, reason: str) -> None:
        """Count a failure at a piece of work named `about`: a generation's id, or a model's."""
        self.failures += 1
        self.reason = reason
        self._in_a_row += 1
        self._failed.add(about)
        if self._openings or len(self._failed) >= self._tolerance.failures:
            cooldown = self._tolerance.cooldown
            pause = max(cooldown, min(cooldown * 2 ** min(self._openings, _DOUBLINGS), _LONGEST_COOLDOWN))
            self._openings += 1
            # from now on each failure counts; a device may fail for ever, so the set must not grow
            self._failed.clear()
        else:
            pause = min(2.0 ** (self._in_a_row - 2), _LONGEST_BACKOFF) if self._in_a_row > 1 else 0.0
        self._until = self._clock() + pause

    def blocked(self, reason: str) -> None:
        """Open at once: nothing can run there, whatever is tried. A second later it is tried again, then after two …"""
        self.failures += 1
        self.reason = reason
        self._openings += 1
        self._until = self._clock() + min(2.0 ** min(self._blocked, _DOUBLINGS), self._tolerance.cooldown)
        self._blocked += 1

    def succeeded(self) -> None:
        """The device finished a generation: earlier failures count no more."""
        self._failed.clear()
        self._in_a_row = self._openings = self._blocked = 0
        self._until = 0.0
        self.reason = None
