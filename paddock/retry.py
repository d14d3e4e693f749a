"""When a request is sent again, and after what pause."""

import math
from dataclasses import dataclass
from random import SystemRandom

import httpx

from paddock.errors import APIError, InvalidArgumentError, PaddockError, UnreachableError

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""The queue is full, the server is unavailable, or a proxy does not reach it."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "DELETE"})
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is sent, and how long the client waits in between. All times are in seconds.

    A request is sent again after a broken connection, a time-out, and the statuses 429, 502, 503 and 504, and only if a
    repetition cannot do its work twice: it is a GET or DELETE, an upload, or carries an idempotency key (all other
    requests of `Client` do). The pauses double from `backoff` up to `max_pause`, with jitter. A server that states
    Retry-After is asked again no earlier; if it states more than `max_pause`, its error is raised at once.
    """

    attempts: int = 5
    """How often a request is sent at most; 1 never repeats one."""
    backoff: float = 0.5
    max_pause: float = 60.0
    reconnect_timeout: float | None = 600.0
    """How long `follow`, `wait` and `generate` wait for a server that has gone away; None for ever."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidArgumentError("attempts must be an integer from 1")
        for name in ("backoff", "max_pause", "reconnect_timeout"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidArgumentError(f"{name} must be a number of seconds from 0")

    def pause(self, request: httpx.Request, error: PaddockError, attempt: int) -> float | None:
        """The seconds to wait before `request` is sent again after its `attempt`-th failure; None to give up."""
        if attempt >= self.attempts or not is_repeatable(request):
            return None
        retry_after = None
        if isinstance(error, APIError):
            if error.status_code not in RETRIED_STATUSES:
                return None
            retry_after = error.retry_after
        elif not isinstance(error, UnreachableError):
            return None
        if retry_after is not None:
            return retry_after if retry_after <= self.max_pause else None
        # 2.0 ** 1024 overflows
        longest = min(self.max_pause, self.backoff * 2.0 ** min(attempt - 1, 32))
        return longest * _random.uniform(0.5, 1.0)


MARKS = "/ai/generations/marks"
"""The path by which generations are marked."""

NEVER = RetryPolicy(attempts=1)


def is_repeatable(request: httpx.Request) -> bool:
    """Whether a request that is sent twice has the effect of one."""
    # a file that is uploaded twice is kept once, and a mark made twice is one mark
    is_harmless = request.url.path.endswith(("/uploads", MARKS))
    return request.method in _SAFE_METHODS or "Idempotency-Key" in request.headers or is_harmless
