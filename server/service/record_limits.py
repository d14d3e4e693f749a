"""Records the generations of requests within limits: of the queue, and of what no device works on."""

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from math import ceil

from server.core.errors import RETRY_AFTER, QueueFullError
from server.core.events import Event
from server.core.generation import Generation
from server.core.settings.sections import QueueSettings
from server.scheduler.interface import Scheduler
from server.storage.db.records import IdempotentRequest, QueueLimitError, QueueLimits
from server.storage.db.statements.submissions import Submissions

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
        so_far = sum(each for _, each in amounts)
        excess = so_far + amount - self._limit
        if excess <= 0 or so_far <= 0:
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


class RewriteLimit:
    """How many prompts of a tenant are rewritten by a language model within an hour."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._asked = HourlyLimit(limit)

    def add(self, tenant: str, more: int = 1) -> None:
        """Count some more. Raises QueueFullError, and then counts none."""
        if (wait := self._asked.wait(tenant, more)) is not None:
            raise QueueFullError(
                f"{self._limit} prompts were enhanced within an hour: this is the limit.",
                ceil(wait),
            )
        self._asked.add(tenant, more)

    def take_back(self, tenant: str, less: int) -> None:
        """Count some less."""
        self._asked.add(tenant, -less)


class RecordLimits:
    """How many generations of a tenant may fail as they are submitted, and how large those may be that do not start.

    The latter are those that wait, too: they may be cancelled. What starts does not count any more.
    """

    def __init__(self, settings: QueueSettings, rewrites: RewriteLimit) -> None:
        self._settings = settings
        self._rewrites = rewrites
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
        if rewrites := _rewrites(new):
            self._rewrites.add(tenant, rewrites)
        # before they are recorded: others are submitted meanwhile
        self._failed.add(tenant, failed)
        self._unstarted.add(tenant, sum(sizes.values()))
        self._waiting |= {each.id: sizes[each.id] for each in new if not each.is_terminal}

    def take_back(self, new: Sequence[Generation]) -> None:
        """Count generations no more, as they were not recorded."""
        self._failed.add(new[0].tenant, -_failed(new))
        self._unstarted.add(new[0].tenant, -sum(map(_size, new)))
        if rewrites := _rewrites(new):
            self._rewrites.take_back(new[0].tenant, rewrites)
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


class Recorder:
    """Records the generations of requests within the limits."""

    def __init__(
        self, submissions: Submissions, limits: RecordLimits, settings: QueueSettings, scheduler: Scheduler
    ) -> None:
        self._submissions = submissions
        self._limits = limits
        self._settings = settings
        self._scheduler = scheduler

    async def record(self, new: Sequence[Generation], request: IdempotentRequest | None) -> Sequence[Generation]:
        """Record new generations, or find those of the same request before. Raises QueueFullError."""
        try:
            return await self._record(new, request)
        except QueueFullError:
            # a repeated request takes no place
            if request is not None and (before := await self._submissions.before(new[0].tenant, request)):
                return before
            raise

    async def _record(self, new: Sequence[Generation], request: IdempotentRequest | None) -> Sequence[Generation]:
        limits = QueueLimits(self._settings.max_queued, self._settings.max_queued_per_key)
        self._limits.add(new)
        is_new = False
        try:
            recorded = await self._submissions.insert(new, limits, request)
            is_new = recorded[0].id == new[0].id
        except QueueLimitError as error:
            whose = "generations with this key" if error.is_per_tenant else "generations"
            free_in = self._scheduler.free_in
            raise QueueFullError(
                f"The queue is full: {error.limit} {whose} are waiting.",
                RETRY_AFTER if free_in is None else max(1, ceil(free_in)),
            ) from None
        finally:
            if not is_new:
                self._limits.take_back(new)
        return recorded


def _failed(new: Sequence[Generation]) -> int:
    return sum(each.is_terminal for each in new)


def _rewrites(new: Sequence[Generation]) -> int:
    """How many prompts a language model has to rewrite for these."""
    return len({each.enhancement.request for each in new if each.enhancement and each.enhancement.prompt is None})


def _size(generation: Generation) -> int:
    """About so many bytes a record takes: its prompts are in it twice, and once more as words."""
    targets = (generation.target_namespace, generation.target_repo, generation.target_directory)
    return _ROW_BYTES + 3 * len(json.dumps(generation.parameters)) + len(json.dumps(targets))
