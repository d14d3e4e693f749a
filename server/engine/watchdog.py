"""How long a worker may go on without progress, learned from the times that its own device has taken.

A heartbeat shows that the worker's process is alive, not that its device is: it goes on while a kernel never ends or a
lock is never released. Progress shows that both are. Nothing here waits or kills: code that waits for the worker asks
every TICK seconds.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.core.progress import Progress, Stage
from server.core.durations import WITH_LOADS, Durations, RunTimer

TICK = 0.5
"""How often, in seconds, a wait has to be checked."""

FACTOR = 10
"""How many times as long as expected is still slow, and not a hang."""

_LONGEST_TICK = 5.0
_AFTER_STALL = 4.0
_STALLS_COUNTED = 5

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds on the time without progress, in seconds.

    - `floor` is the least bound of a run, and the bound of an unload and of the end of a file.
    - `first` holds for work that this device has not done before.
    - `load` holds for reading weights, as for merging LoRAs, and for encoding a prompt, which may have to read those of
      the text encoder.
    """

    floor: float = 120.0
    first: float = 3600.0
    load: float = 1800.0


class AwakeClock:
    """Seconds during which this process was awake, for a clock that is read at least every TICK seconds.

    In a longer gap the server was stopped, or the machine slept. It does not count at all, so that what the worker sent
    meanwhile is read before the worker is judged.
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
    """A wait for a worker that is `doing` something, with the bound in seconds that holds now."""

    def __init__(self, clock: Clock, bound: float, doing: str) -> None:
        self.bound = bound
        self.doing = doing
        self._clock = clock
        self._since = clock()

    def note_progress(self) -> None:
        """The worker has made progress: count from now."""
        self._since = self._clock()

    def overdue(self) -> str | None:
        """A sentence for the user once the bound is exceeded; None before."""
        if self._clock() - self._since <= self.bound:
            return None
        return f"it made no progress for {self.bound:g} seconds while {self.doing} and was killed"


class Watchdog:
    """The bounds of one device, by what is remembered of it. It outlives the workers."""

    def __init__(self, patience: Patience, durations: Durations) -> None:
        self.patience = patience
        self.clock = durations.clock
        self.stalls = 0

    def watch_load(self) -> Watch:
        """Watch a load. Any report of it is progress: a worker sends one only when it has read more bytes."""
        return Watch(self.clock, self.patience.load, "loading")

    def watch_unload(self) -> Watch:
        """Watch an unload, which reports nothing before its end."""
        return Watch(self.clock, self.patience.floor, "unloading")

    def watch_file(self) -> Watch:
        """Watch a file being finished, of which nothing is reported before its end."""
        return Watch(self.clock, self.patience.floor, "finishing the file")

    def watch_run(self, timer: RunTimer) -> "RunWatch":
        """Watch a run that begins now."""
        return RunWatch(self, timer)

    def bound(self, timer: RunTimer) -> float:
        """Seconds for the interval that a run is in."""
        if timer.stage in WITH_LOADS:
            # weights are read, or a prompt that is cached takes no time, which says nothing of the next
            return self.patience.load
        learned = self._expected(timer)
        if learned is None and timer.slowest is None:
            return self.patience.first
        bound = max(self.patience.floor, FACTOR * (timer.slowest or 0.0), learned or 0.0)
        # a worker that was killed may only have been slow, and has more time at the next try
        return max(bound, min(bound * _AFTER_STALL ** min(self.stalls, _STALLS_COUNTED), self.patience.first))

    def _expected(self, timer: RunTimer) -> float | None:
        if not timer.known:
            return None
        # a smaller video is not expected to be quicker: streamed weights take the same time for any size
        if at_least := [known.seconds for known in timer.known if known.pixels >= timer.pixels]:
            return FACTOR * max(at_least)
        nearest, seconds = max((known.pixels, known.seconds) for known in timer.known)
        # attention's cost grows with the square; far beyond the known sizes that says nothing any more
        scaled = FACTOR * seconds * (timer.pixels / nearest) ** 2
        return max(FACTOR * seconds, min(scaled, self.patience.first))


class RunWatch(Watch):
    """Watches one run by its timer."""

    def __init__(self, dog: Watchdog, timer: RunTimer) -> None:
        super().__init__(dog.clock, dog.patience.load, Stage.PROMPT)
        self._dog = dog
        self._timer = timer

    def note(self, now: Progress) -> None:
        """Take in a report of progress."""
        if self._timer.note(now):
            self.doing = self._timer.stage.value
            self.bound = self._dog.bound(self._timer)
            self.note_progress()

    def note_loading(self) -> None:
        """The model is loaded again in the middle of the run, by another plan, since memory ran out."""
        self._timer.note_reload()
        self.bound, self.doing = self._dog.patience.load, "loading"
        self.note_progress()

    def note_done(self) -> None:
        """The run has made all frames."""
        self.note_progress()
        self._dog.stalls = 0

    def end(self) -> None:
        """The run has ended on the device, whatever its result."""
        if self.overdue():
            self._dog.stalls += 1
        self._timer.leave_device()
