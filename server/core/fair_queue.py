"""The law of whose turn it is, and of what is taken at it: for a claim, and to foretell the order of the whole queue.

Keys take turns. Next is the one whose last turn is longest ago; one that never had any, or whose generation was given
back, is before those, and of several such the one with the older generation. Within a key the oldest goes first. So
between two turns of a key that has something waiting every other has one at most, however much it has waiting.

A device goes on with the model it holds, since to load another takes long, but only so far:
- Within a key the oldest of the device's model goes first, until `max_overtakes` have gone before an older one.
- The first key in turn that has one to go on with goes first, and those before it are passed over, until one that
  waits was passed over `max_overtakes` times since its last turn.

A count bounds the wait, not a time: no clock can break it, and in a long queue, where all have waited long, a bound on
time would load at every step. Who overtook another within a key overtook its oldest too, so that one's count is enough.
"""

from bisect import bisect_right, insort
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple


class Waiting(NamedTuple):
    """A queued generation: its sequence number, whose it is, and the model it needs."""

    seq: int
    tenant: str
    model: str


class Turn(NamedTuple):
    """When a key last had its turn, as a number that grows (0: it is before all that had one), and how often it was
    passed over since.
    """

    number: int = 0
    passed: int = 0


class Taken(NamedTuple):
    """What was taken, and the keys that were passed over for it."""

    generation: Waiting
    passed: list[str]


class _Line:
    """What one key has waiting, by model."""

    def __init__(self, tenant: str, passed: int) -> None:
        self.tenant = tenant
        self.passed = passed
        self._waiting: dict[str, deque[int]] = defaultdict(deque)
        self._overtakers: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def join(self, seq: int, model: str) -> None:
        """Stand behind those that are here."""
        self._waiting[model].append(seq)

    def overtaken_by(self, seq: int) -> None:
        """Note one that has gone before those here that are older."""
        insort(self._overtakers, seq)

    @property
    def oldest(self) -> int:
        """The number of the oldest."""
        return self._waiting[self._first][0]

    @property
    def _first(self) -> str:
        return min(self._waiting, key=lambda model: self._waiting[model][0])

    def next_model(self, holding: str | None, max_overtakes: int) -> str:
        """The model of the one that is taken from here."""
        first = self._first
        if holding == first or holding not in self._waiting:
            return first
        overtakes = len(self._overtakers) - bisect_right(self._overtakers, self._waiting[first][0])
        return holding if overtakes < max_overtakes else first

    def take(self, model: str) -> Waiting:
        """Take the oldest of a model."""
        seq = self._waiting[model].popleft()
        if not self._waiting[model]:
            del self._waiting[model]
        insort(self._overtakers, seq)
        return Waiting(seq, self.tenant, model)


class Queue:
    """The queue, or as much of it as the next claim depends on: of each key the oldest, and the oldest of the device's
    model.

    `waiting` is oldest first; `started` are those, as number and key, that run or are over and are younger than their
    key's oldest; `turns` the keys' own, of those that had any.
    """

    def __init__(
        self,
        waiting: Iterable[Waiting],
        started: Iterable[tuple[int, str]],
        turns: Mapping[str, Turn],
        max_overtakes: int,
    ) -> None:
        self._max_overtakes = max_overtakes
        lines: dict[str, _Line] = {}
        for each in waiting:
            if (line := lines.get(each.tenant)) is None:
                line = lines[each.tenant] = _Line(each.tenant, turns.get(each.tenant, Turn()).passed)
            line.join(each.seq, each.model)
        for seq, tenant in started:
            lines[tenant].overtaken_by(seq)
        # who had its turn goes to the end, and so the order of the others stays
        self._lines = OrderedDict(
            sorted(lines.items(), key=lambda item: (turns.get(item[0], Turn()).number, item[1].oldest))
        )
        self._impatient = {tenant for tenant, line in lines.items() if line.passed >= max_overtakes}

    @property
    def keys(self) -> list[str]:
        """The keys that have something waiting, in the order of their turns."""
        return list(self._lines)

    def take(self, holding: str | None) -> Taken | None:
        """Take what a device takes next that holds this model; None when nothing waits."""
        if not self._lines:
            return None
        passed: list[_Line] = []
        if holding is not None and not self._impatient:
            for line in self._lines.values():
                if line.next_model(holding, self._max_overtakes) == holding:
                    return self._take(line, holding, passed)
                passed.append(line)
        first = next(iter(self._lines.values()))
        return self._take(first, first.next_model(holding, self._max_overtakes), [])

    def _take(self, line: _Line, model: str, passed: Sequence[_Line]) -> Taken:
        taken = line.take(model)
        line.passed = 0
        self._lines.move_to_end(line.tenant)
        if not line:
            del self._lines[line.tenant]
        if self._max_overtakes > 0:
            self._impatient.discard(line.tenant)
        for each in passed:
            each.passed += 1
            if each.passed >= self._max_overtakes:
                self._impatient.add(each.tenant)
        return Taken(taken, [each.tenant for each in passed])


def foretold(queue: Queue, holding: Sequence[str | None]) -> Iterator[int]:
    """The sequence numbers of what waits, in the order it will be taken if no more come; the queue is used up by it.

    `holding` is the model that each device holds when it next takes one, None for none. Several devices are foretold
    to take turns, as nobody knows which will be free first.
    """
    held = list(holding) or [None]
    for device in cycle(range(len(held))):
        if (taken := queue.take(held[device])) is None:
            return
        held[device] = taken.generation.model
        yield taken.generation.seq


def place(waiting: Sequence[int], mine: int, rank: int) -> int:
    """The place (1 is next) of a generation that has `rank` of its own key before it, where models make no difference.

    `waiting` is how many each key has, in the order of their turns, and `mine` the index there of its own.
    """
    before = sum(min(many, rank + 1) for many in waiting[:mine]) + sum(min(many, rank) for many in waiting[mine + 1 :])
    return 1 + rank + before
