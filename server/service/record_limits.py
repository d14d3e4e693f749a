"""Bounds the records of requests that no device worked on: the limits of the queue do not count them, as none waits."""

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from math import ceil

from server.core.errors import QueueFullError
from server.core.events import Event
from server.core.generation import Generation
from server.core.settings.sections import QueueSettings

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
    """How many generations of a tenant may fail as they are submitted, and how large those may be that do not start.

    The latter are those that wait, too: they may be cancelled. What starts does not count any more.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._failed = HourlyLimit(settings.max_failed_per_hour)
        self._unstarted = HourlyLimit(settings.max_unstarted_bytes_per_hour)
        self._waiting: dict[str, int] = {}
        """The sizes of those that wait and were submitted to this process, by their ids."""

    def add(self, new: Sequence[Generation]) -> None:
        """Count a request's generations before they are recorded. Raises QueueFullError, and then counts none."""
        tenant, failed = new[0].tenant, _failed(new)
        sizes = {each.id: _size(each) for each in new}
        if failed and (wait := self._failed.wait(tenant, failed)) is not None:
            raise QueueFullError(
                f"{self._settings.max_failed_per_hour} requests with invalid parameters were recorded within an hour: "
                "this is the limit.",
                ceil(wait),
            )
        if (wait := self._unstarted.wait(tenant, sum(sizes.values()))) is not None:
            raise QueueFullError(
                f"Requests with {self._settings.max_unstarted_bytes_per_hour} bytes in all that have not started were "
                "recorded within an hour: this is the limit.",
                ceil(wait),
            )
        # before they are recorded: others are submitted meanwhile
        self._failed.add(tenant, failed)
        self._unstarted.add(tenant, sum(sizes.values()))
        self._waiting |= {each.id: sizes[each.id] for each in new if not each.is_terminal}

    def take_back(self, new: Sequence[Generation]) -> None:
        """Count generations no more, as they were not recorded."""
        self._failed.add(new[0].tenant, -_failed(new))
        self._unstarted.add(new[0].tenant, -sum(map(_size, new)))
        for each in new:
            self._waiting.pop(each.id, None)

    def note(self, event: Event) -> None:
        """Take from an event that a generation has started, or was cancelled."""
        generation = event.generation
        if event.live is None and not generation.is_terminal:
            return
        size = self._waiting.pop(generation.id, 0)
        if generation.attempt > 0:
            self._unstarted.add(generation.tenant, -size)


def _failed(new: Sequence[Generation]) -> int:
    return sum(each.is_terminal for each in new)


def _size(generation: Generation) -> int:
    """About so many bytes a record takes: its prompts are in it twice, and once more as words."""
    targets = (generation.target_namespace, generation.target_repo, generation.target_directory)
    return _ROW_BYTES + 3 * len(json.dumps(generation.parameters)) + len(json.dumps(targets))
