"""How long a worker may go on without progress, learned from the times its own device has taken.

A heartbeat tells that the worker's process lives, not that its device does: behind a kernel that never ends, or a
lock that is never released, it goes on beating. What tells is progress. Nothing here waits or kills; whoever waits
for the worker asks, every TICK seconds.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.core.progress import Stage
from pipelines.core.request import VideoParams
from server.engine.protocol import Progressed

TICK = 0.5
"""How often, in seconds, a wait is to be looked at."""

FACTOR = 10
"""How many times as long as expected is still slow, and not a hang."""

_LONGEST_TICK = 5.0
_RUNS_REMEMBERED = 8
_AFTER_STALL = 4.0
_STALLS_COUNTED = 5

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds on the time without progress, in seconds.

    `floor` is the least a run is given, and what an unload or the end of a file is given; `first` is for what this
    device has not done before; `load` for reading weights, and for encoding a prompt, which may have to read the text
    encoder's.
    """

    floor: float = 120.0
    first: float = 3600.0
    load: float = 1800.0


class AwakeClock:
    """Seconds during which this process was awake, for a clock that is read at least every TICK seconds.

    A longer gap is not the worker's doing: the server was stopped, or the machine slept. It does not count at all, so
    that what the worker sent meanwhile is read before anyone judges it.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._awake = 0.0

    def __call__(self) -> float:
        now = self._clock()
        if now - self._last <= _LONGEST_TICK:
            self._awake += now - self._last
        self._last = now
        return self._awake


class Watch:
    """A wait for a worker that is `doing` something, with the bound in seconds that now holds."""

    def __init__(self, clock: Clock, bound: float, doing: str) -> None:
        self.bound = bound
        self.doing = doing
        self._clock = clock
        self._since = clock()

    def note_progress(self) -> None:
        """The worker has got further: count from now."""
        self._since = self._clock()

    def overdue(self) -> str | None:
        """What is wrong, as words for the user, once the bound is exceeded."""
        if self._clock() - self._since <= self.bound:
            return None
        return f"it made no progress for {self.bound:g} seconds while {self.doing} and was killed"


class Watchdog:
    """What one device's times have taught; it lives as long as the engine, and outlives the workers."""

    def __init__(self, patience: Patience, clock: Clock) -> None:
        self.patience = patience
        self.clock = clock
        self.stalls = 0
        self._learned: dict[_Work, deque[tuple[int, float]]] = {}

    def watch_load(self) -> Watch:
        """Watch a load. Any report of it is progress: a worker sends one only when it has read more bytes."""
        return Watch(self.clock, self.patience.load, "loading")

    def watch_unload(self) -> Watch:
        """Watch an unload, which reports nothing before its end."""
        return Watch(self.clock, self.patience.floor, "unloading")

    def watch_file(self) -> Watch:
        """Watch a file being finished, of which nothing is reported before its end."""
        return Watch(self.clock, self.patience.floor, "finishing the file")

    def watch_run(self, fingerprint: Mapping[str, str], params: VideoParams) -> "RunWatch":
        """Watch a run by a model with this fingerprint."""
        size = params.width * params.height * params.num_frames
        return RunWatch(self, frozenset(fingerprint.items()), size)

    def learn(self, work: "_Work", size: int, seconds: float) -> None:
        """Remember the longest interval of a run."""
        self._learned.setdefault(work, deque(maxlen=_RUNS_REMEMBERED)).append((size, seconds))

    def bound(self, work: "_Work", size: int, slowest: float | None) -> float:
        """Seconds for an interval of a run in which the slowest one of the same stage so far took `slowest`."""
        learned = self._expected(work, size)
        if learned is None and slowest is None:
            return self.patience.first
        bound = max(self.patience.floor, FACTOR * (slowest or 0.0), learned or 0.0)
        # whoever was killed for being slow may only have been slow, and is given more time the next time
        return max(bound, min(bound * _AFTER_STALL ** min(self.stalls, _STALLS_COUNTED), self.patience.first))

    def _expected(self, work: "_Work", size: int) -> float | None:
        known = self._learned.get(work)
        if not known:
            return None
        # a smaller video is not expected to be quicker: weights that are streamed take the same time for any
        if at_least := [seconds for larger, seconds in known if larger >= size]:
            return FACTOR * max(at_least)
        nearest, seconds = max(known)
        # attention's cost grows with the square; far beyond what is known that says nothing any more
        scaled = FACTOR * seconds * (size / nearest) ** 2
        return max(FACTOR * seconds, min(scaled, self.patience.first))


@dataclass(frozen=True, slots=True)
class _Work:
    """A kind of interval between two reports; the first of a stage may have compiling or reading from disk in it."""

    fingerprint: frozenset[tuple[str, str]] | None
    stage: Stage
    is_first: bool


class RunWatch(Watch):
    """Watches one run, and teaches the watchdog at its end."""

    def __init__(self, dog: Watchdog, fingerprint: frozenset[tuple[str, str]], size: int) -> None:
        super().__init__(dog.clock, dog.patience.load, Stage.PROMPT)
        self._dog = dog
        self._fingerprint: frozenset[tuple[str, str]] | None = fingerprint
        self._size = size
        self._at: tuple[Stage, int, int] | None = None
        self._stage = Stage.PROMPT
        self._is_first = True
        self._slowest: dict[tuple[Stage, bool], float] = {}

    def note(self, report: Progressed) -> None:
        """The run is this far. The same place once more is no progress."""
        at = report.stage, report.step, report.steps
        if at == self._at:
            return
        self._at = at
        kind = self._stage, self._is_first
        self._slowest[kind] = max(self._slowest.get(kind, 0.0), self._clock() - self._since)
        # after its last step, a stage's reports are over and the next one's work has begun
        is_over = report.stage is Stage.DENOISE and report.step >= report.steps
        self._enter(Stage.DECODE if is_over else report.stage)

    def note_loading(self) -> None:
        """The model is loaded once more, in the middle of the run, since it ran out of memory: laid out otherwise."""
        self._fingerprint = None
        self._at = None
        self._slowest.clear()
        self._stage, self._is_first = Stage.PROMPT, True
        self.bound, self.doing = self._dog.patience.load, "loading"
        self.note_progress()

    def note_done(self) -> None:
        """The run has brought its frames."""
        self.note_progress()
        self._dog.stalls = 0

    def end(self) -> None:
        """The run is over, however it ended: what it took is learned."""
        if self.overdue():
            self._dog.stalls += 1
        for (stage, is_first), seconds in self._slowest.items():
            if self._fingerprint is not None and stage is not Stage.PROMPT:
                self._dog.learn(_Work(self._fingerprint, stage, is_first), self._size, seconds)

    def _enter(self, stage: Stage) -> None:
        self._is_first = stage is not self._stage
        self._stage = stage
        self.doing = stage.value
        self.bound = self._bound()
        self.note_progress()

    def _bound(self) -> float:
        if self._stage is Stage.PROMPT:
            # a prompt that is known already takes no time, which tells nothing of the next
            return self._dog.patience.load
        slowest = max((s for (stage, _), s in self._slowest.items() if stage is self._stage), default=None)
        return self._dog.bound(_Work(self._fingerprint, self._stage, self._is_first), self._size, slowest)
