"""The order in which queued generations are taken, foretold: the law that `store.claim` applies one at a time."""

from bisect import bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle


def turns(
    queued: Iterable[tuple[int, str]], started: Iterable[int], holding: Sequence[str | None], max_overtakes: int
) -> Iterator[int]:
    """The sequence numbers of queued generations, in the order they will be taken if no more come.

    `queued` is each one's number and model, oldest first; `started` the numbers, in order too, of those younger than
    the oldest that run or are over; `holding` the model each device holds when it next takes one, None for none.
    Several devices are foretold to take turns, as nobody knows which will be free first.
    """
    overtakers = list(started)
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for seq, model in queued:
        waiting[model].append(seq)
    held = list(holding) or [None]
    for device in cycle(range(len(held))):
        if not waiting:
            return
        first = min(waiting, key=lambda model: waiting[model][0])
        overtakes = len(overtakers) - bisect_right(overtakers, waiting[first][0])
        if held[device] not in waiting or overtakes >= max_overtakes:
            held[device] = first
        yield _take(waiting, held[device] or first, overtakers)


def _take(waiting: dict[str, deque[int]], model: str, overtakers: list[int]) -> int:
    seq = waiting[model].popleft()
    if not waiting[model]:
        del waiting[model]
    insort(overtakers, seq)
    return seq
