"""The order of the queue: which generation a claim takes next, and in which order the whole queue will be taken.

Tenants take turns. Next is the tenant whose last turn is longest ago. A tenant that never had a turn, or whose
generation was given back, comes before those, and of several such the one with the older generation. Within a tenant
the oldest generation goes first. So between two turns of a tenant that has generations waiting, every other tenant has
at most one turn, however many generations it has waiting.

A device goes on with the weights it holds, since loading others takes long, but within a bound. Weights are a model and
a variant of it: `run_fast` and the LoRAs of requests. The same variant comes first, then the same model.
- Within a tenant the oldest generation for the device's weights goes first, until `max_overtakes` generations have gone
  before an older one.
- Across tenants the first tenant in turn that has a generation for these weights goes first, and the tenants before it
  are skipped, until one that waits has been skipped `max_overtakes` times since its last turn.

The bound is a count, not a time: no clock can break it, and in a long queue, where all have waited long, a bound on
time would load another model at every step. A generation that overtook any other of its tenant overtook the oldest
one too, so the count of the oldest is enough.

A generation that was moved to the end of the queue is deferred: it is left out until none of those that were queued
before the move waits any more, of any tenant. Then it is the first of its tenant, whatever its model.
"""

from bisect import bisect_right, insort
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple


class Weights(NamedTuple):
    """What a generation needs on its device: a model, and a variant of it (`Generation.variant`)."""

    model: str
    variant: str = ""


class Exclusions(NamedTuple):
    """What a device cannot take: all generations of some models, and those for some weights."""

    models: frozenset[str] = frozenset()
    weights: frozenset[Weights] = frozenset()

    def cover(self, weights: Weights) -> bool:
        """Whether generations that need these weights are excluded."""
        return weights.model in self.models or weights in self.weights


NOTHING = Exclusions()


class Waiting(NamedTuple):
    """A queued generation: its sequence number, its tenant, and the weights it needs."""

    seq: int
    tenant: str
    model: str
    variant: str = ""

    @property
    def weights(self) -> Weights:
        """The weights it needs."""
        return Weights(self.model, self.variant)


class Deferred(NamedTuple):
    """A queued generation that was moved to the end, when `behind` was the youngest generation."""

    behind: int
    generation: Waiting


class Turn(NamedTuple):
    """When a tenant had its last turn, as a growing number (0: before all that had one), and how often it was skipped
    since.
    """

    number: int = 0
    skipped: int = 0


class Taken(NamedTuple):
    """The generation that was taken, and the tenants that were skipped for it."""

    generation: Waiting
    skipped: list[str]


class _TenantQueue:
    """The generations of one tenant that wait: all, by model, and by their weights."""

    def __init__(self, tenant: str, skipped: int) -> None:
        self.tenant = tenant
        self.skipped = skipped
        self._returned: deque[Waiting] = deque()
        # the first of an OrderedDict is found in the same time however many were taken before it
        self._waiting: OrderedDict[int, Weights] = OrderedDict()
        self._by_model: dict[str, OrderedDict[int, Weights]] = defaultdict(OrderedDict)
        self._by_weights: dict[Weights, deque[int]] = defaultdict(deque)
        self._overtakers: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._returned)

    def append(self, generation: Waiting) -> None:
        """Add a generation that is younger than those that wait here."""
        seq, weights = generation.seq, generation.weights
        self._waiting[seq] = self._by_model[weights.model][seq] = weights
        self._by_weights[weights].append(seq)

    def put_first(self, generation: Waiting) -> None:
        """Add a generation that was deferred; of several such the one that is added first goes first."""
        self._returned.append(generation)

    def note_overtaker(self, seq: int) -> None:
        """Note a generation that has gone before older ones that wait here."""
        insort(self._overtakers, seq)

    @property
    def oldest(self) -> int | None:
        """The number of the oldest generation, apart from those that were deferred."""
        return next(iter(self._waiting), None)

    @property
    def age(self) -> int:
        """What orders tenants that had no turn."""
        return self._returned[0].seq if self.oldest is None else self.oldest

    def next_weights(self, holding: Weights | None, max_overtakes: int) -> Weights:
        """The weights of the generation that a device takes from here."""
        if self._returned:
            return self._returned[0].weights
        oldest, first = next(iter(self._waiting.items()))
        if holding is None or holding == first:
            return first
        if holding in self._by_weights:
            preferred = holding
        elif holding.model in self._by_model:
            preferred = next(iter(self._by_model[holding.model].values()))
        else:
            return first
        overtakes = len(self._overtakers) - bisect_right(self._overtakers, oldest)
        return preferred if overtakes < max_overtakes else first

    def take(self, weights: Weights) -> Waiting:
        """Take the oldest generation for these weights, which is the next one."""
        if self._returned:
            return self._returned.popleft()
        of_model, same = self._by_model[weights.model], self._by_weights[weights]
        seq = same.popleft()
        del self._waiting[seq], of_model[seq]
        if not same:
            del self._by_weights[weights]
        if not of_model:
            del self._by_model[weights.model]
        insort(self._overtakers, seq)
        return Waiting(seq, self.tenant, *weights)


class FairQueue:
    """The queue, or as much of it as the next claim depends on: of each tenant the oldest generation, the oldest of the
    device's model, and the oldest of its variant.

    `waiting` is oldest first, without the deferred generations; these come in the order they were deferred in.
    `started` are, as number and tenant, the generations that run or are over and are younger than their tenant's
    oldest. `turns` are the tenants' own, of those that had any.
    """

    def __init__(
        self,
        waiting: Iterable[Waiting],
        started: Iterable[tuple[int, str]],
        turns: Mapping[str, Turn],
        max_overtakes: int,
        deferred: Iterable[Deferred] = (),
    ) -> None:
        self._max_overtakes = max_overtakes
        self._turns = dict(turns)
        self._last_turn = max((turn.number for turn in turns.values()), default=0)
        self._deferred = deque(deferred)
        self._queues: OrderedDict[str, _TenantQueue] = OrderedDict()
        self._impatient: set[str] = set()
        for each in waiting:
            self._of(each.tenant).append(each)
        for seq, tenant in started:
            self._queues[tenant].note_overtaker(seq)
        self._sort()
        self._end_deferrals()

    @property
    def tenants(self) -> list[str]:
        """The tenants that have generations waiting, in the order of their turns."""
        return list(self._queues)

    def take(self, holding: Weights | None) -> Taken | None:
        """Take the next generation for a device that holds these weights; None when nothing waits."""
        if not self._queues:
            return None
        taken = self._take_next(holding)
        self._end_deferrals()
        return taken

    def _take_next(self, holding: Weights | None) -> Taken:
        if holding is not None and not self._impatient:
            skipped: list[_TenantQueue] = []
            of_model: tuple[_TenantQueue, Weights, int] | None = None
            for queue in self._queues.values():
                weights = queue.next_weights(holding, self._max_overtakes)
                if weights == holding:
                    return self._take(queue, weights, skipped)
                if of_model is None and weights.model == holding.model:
                    of_model = queue, weights, len(skipped)
                skipped.append(queue)
            if of_model is not None:
                queue, weights, before = of_model
                return self._take(queue, weights, skipped[:before])
        first = next(iter(self._queues.values()))
        return self._take(first, first.next_weights(holding, self._max_overtakes), [])

    def _take(self, queue: _TenantQueue, weights: Weights, skipped: Sequence[_TenantQueue]) -> Taken:
        taken = queue.take(weights)
        queue.skipped = 0
        # a tenant that had its turn moves to the end, and so the order of the others stays
        self._last_turn += 1
        self._turns[queue.tenant] = Turn(self._last_turn)
        self._queues.move_to_end(queue.tenant)
        if not queue:
            del self._queues[queue.tenant]
        if self._max_overtakes > 0:
            self._impatient.discard(queue.tenant)
        for each in skipped:
            each.skipped += 1
            if each.skipped >= self._max_overtakes:
                self._impatient.add(each.tenant)
        return Taken(taken, [each.tenant for each in skipped])

    def _of(self, tenant: str) -> _TenantQueue:
        """The queue of a tenant, made if there is none."""
        if (queue := self._queues.get(tenant)) is None:
            queue = self._queues[tenant] = _TenantQueue(tenant, self._turns.get(tenant, Turn()).skipped)
            if queue.skipped >= self._max_overtakes:
                self._impatient.add(tenant)
        return queue

    def _sort(self) -> None:
        """Put the tenants in the order of their turns."""
        turns = self._turns
        self._queues = OrderedDict(
            sorted(self._queues.items(), key=lambda item: (turns.get(item[0], Turn()).number, item[1].age))
        )

    def _end_deferrals(self) -> None:
        """Let the deferred generations in that none waits before any more."""
        has_changed = False
        while self._deferred:
            oldest = min((seq for queue in self._queues.values() if (seq := queue.oldest) is not None), default=None)
            if oldest is not None and oldest <= self._deferred[0].behind:
                break
            generation = self._deferred.popleft().generation
            self._of(generation.tenant).put_first(generation)
            has_changed = True
        if has_changed:
            self._sort()


def predicted_order(queue: FairQueue, holding: Sequence[Weights | None]) -> Iterator[int]:
    """The sequence numbers of what waits, in the order it will be taken if no more come. This uses up the queue.

    `holding` are the weights that each device holds when it next takes a generation, None for none. Several devices are
    assumed to take turns, as it is not known which will be free first.
    """
    held = list(holding) or [None]
    for device in cycle(range(len(held))):
        if (taken := queue.take(held[device])) is None:
            return
        held[device] = taken.generation.weights
        yield taken.generation.seq


def place(waiting: Sequence[int], mine: int, rank: int) -> int:
    """The place (1 is next) of a generation that has `rank` of its own tenant before it, where weights do not matter.

    `waiting` is how many each tenant has, in the order of their turns, and `mine` the index there of its own tenant.
    """
    before = sum(min(many, rank + 1) for many in waiting[:mine]) + sum(min(many, rank) for many in waiting[mine + 1 :])
    return 1 + rank + before
