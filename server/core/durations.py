"""The times that the last runs of one device took: recorded once, read by the estimator and by the watchdog.

Everything here is bounded. What is remembered of the least recently used fingerprints is dropped first.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipelines.core.progress import Progress, Stage
from pipelines.core.request import OF_REQUEST, StepCaching, VideoParams

RUNS = 16
"""So many finished runs of a kind are remembered."""

INTERVALS = 8
"""Of so many runs the longest intervals are remembered."""

FINGERPRINTS = 64
"""So many ways of computing are remembered: models, their plans, library versions …"""

KINDS = 256
"""For so many kinds of requests it is remembered by which fingerprint the last one ran."""

_TICK = 1e-6

K = TypeVar("K")
V = TypeVar("V")

Clock = Callable[[], float]
Fingerprint = frozenset[tuple[str, str]]
RequestKind = tuple[StepCaching, bool, bool]
"""What of a request changes the time of a run besides its size: step caching, and whether it has guidance and a sound
that is made.
"""

WITH_LOADS = frozenset({Stage.LORAS, Stage.PROMPT, Stage.SOUND})
"""The stages in which weights may have to be read first."""

IntervalKind = tuple[Stage, bool]
"""A stage, and whether it is the stage's first interval, which may have compiling or reading from disk in it."""


@dataclass(frozen=True, slots=True)
class RunDurations:
    """What a finished run took: seconds a denoising `step`, and after the last one; `pixels` of all frames."""

    pixels: int
    step: float
    rest: float


@dataclass(frozen=True, slots=True)
class Interval:
    """The longest time between two reports of a run, in seconds, by the pixels of all its frames."""

    pixels: int
    seconds: float


@dataclass(slots=True)
class _Known:
    """What is remembered of runs with one fingerprint."""

    runs: dict[RequestKind, deque[RunDurations]] = field(default_factory=dict)
    intervals: dict[IntervalKind, deque[Interval]] = field(default_factory=dict)


@dataclass(slots=True)
class StepTimes:
    """When the denoising of a run began and ended, by the seconds of work that the worker reports."""

    began: Progress | None = None
    denoised: Progress | None = None
    seconds: float = 0.0

    def note(self, now: Progress) -> None:
        """Take in a report of progress."""
        self.seconds = now.seconds
        if now.stage is not Stage.DENOISE:
            return
        if self.began is None:
            self.began = now
        if now.step == now.steps:
            self.denoised = now

    def of_run(self, pixels: int) -> RunDurations | None:
        """What the run took; None if it was resumed after its last step and says nothing of steps."""
        if self.began is None or self.denoised is None or self.denoised.step <= self.began.step:
            return None
        step = (self.denoised.seconds - self.began.seconds) / (self.denoised.step - self.began.step)
        # never zero, so that ratios can be taken
        return RunDurations(pixels, max(step, _TICK), max(self.seconds - self.denoised.seconds, _TICK))


class Durations:
    """What is remembered of one device. It outlives the workers; `clock` times the intervals between reports."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._known: OrderedDict[Fingerprint, _Known] = OrderedDict()
        self._last: OrderedDict[tuple[str, bool, RequestKind], Fingerprint] = OrderedDict()
        self.totals: deque[float] = deque(maxlen=RUNS)
        """Seconds of the last videos, of whatever kind."""

    def begin(self, model: str, fingerprint: Mapping[str, str], params: VideoParams) -> "RunTimer":
        """Time a run of a model with this fingerprint, which begins now."""
        key = frozenset(fingerprint.items())
        _remember(self._last, (model, params.run_fast, request_kind(params)), key, KINDS)
        return RunTimer(self, key, params)

    def runs(self, fingerprint: Fingerprint, params: VideoParams) -> Sequence[RunDurations]:
        """The last finished runs with this fingerprint and of the same kind, the oldest first."""
        known = self._known.get(fingerprint)
        return () if known is None else known.runs.get(request_kind(params), ())

    def runs_of_model(self, model: str, params: VideoParams) -> Sequence[RunDurations]:
        """The same by the last fingerprint with which such a request ran."""
        fingerprint = self._last.get((model, params.run_fast, request_kind(params)))
        return () if fingerprint is None else self.runs(fingerprint, params)

    def intervals(self, fingerprint: Fingerprint, kind: IntervalKind) -> Sequence[Interval]:
        """The longest intervals of the last runs with this fingerprint, the oldest first."""
        known = self._known.get(fingerprint)
        return () if known is None else known.intervals.get(kind, ())

    def record_run(self, fingerprint: Fingerprint, params: VideoParams, run: RunDurations) -> None:
        """Remember a finished run."""
        self._of(fingerprint).runs.setdefault(request_kind(params), deque(maxlen=RUNS)).append(run)

    def record_interval(self, fingerprint: Fingerprint, kind: IntervalKind, interval: Interval) -> None:
        """Remember the longest interval of a run."""
        self._of(fingerprint).intervals.setdefault(kind, deque(maxlen=INTERVALS)).append(interval)

    def _of(self, fingerprint: Fingerprint) -> _Known:
        known = self._known.get(fingerprint) or _Known()
        _remember(self._known, fingerprint, known, FINGERPRINTS)
        return known


class RunTimer:
    """Times one run, and records it at its end.

    `stage` is what the worker does since its last report, and `is_first` is set in a stage's first interval.
    """

    def __init__(self, durations: Durations, fingerprint: Fingerprint, params: VideoParams) -> None:
        self._durations = durations
        self._begun_with = fingerprint
        self._fingerprint: Fingerprint | None = fingerprint
        self._params = params
        self.pixels = pixels_of(params)
        self.stage = Stage.PROMPT
        self.is_first = True
        self._times = StepTimes()
        self._at: tuple[Stage, int, int] | None = None
        self._since = durations.clock()
        self._slowest: dict[IntervalKind, float] = {}

    def note(self, now: Progress) -> bool:
        """Take in a report; returns whether it is progress: the same place once more is none."""
        self._times.note(now)
        at = now.stage, now.step, now.steps
        if at == self._at:
            return False
        self._at = at
        kind = self.stage, self.is_first
        clock = self._durations.clock()
        self._slowest[kind] = max(self._slowest.get(kind, 0.0), clock - self._since)
        self._since = clock
        # after the last step all reports of denoising are sent, and decoding has begun
        is_over = now.stage is Stage.DENOISE and now.step >= now.steps
        stage = Stage.DECODE if is_over else now.stage
        self.is_first = stage is not self.stage
        self.stage = stage
        return True

    def note_reload(self) -> None:
        """The model was loaded again by another plan, since memory ran out: what this run takes is not recorded."""
        self._fingerprint = None
        self._at = None
        self._slowest.clear()
        self.stage, self.is_first = Stage.PROMPT, True
        self._since = self._durations.clock()

    @property
    def known(self) -> Sequence[Interval]:
        """The longest intervals of earlier runs, of the kind that this run is in."""
        if self._fingerprint is None:
            return ()
        return self._durations.intervals(self._fingerprint, (self.stage, self.is_first))

    @property
    def slowest(self) -> float | None:
        """Seconds of the longest interval of this run in the stage it is in; None before the first."""
        return max((seconds for (stage, _), seconds in self._slowest.items() if stage is self.stage), default=None)

    def leave_device(self) -> None:
        """The run has ended on the device, whatever its result: record its intervals, without its file's."""
        for kind, seconds in self._slowest.items():
            # what is merged, cached or loaded already takes no time, which says nothing of the next
            if self._fingerprint is not None and kind[0] not in WITH_LOADS:
                self._durations.record_interval(self._fingerprint, kind, Interval(self.pixels, seconds))

    def succeed(self, fingerprint: Mapping[str, str]) -> None:
        """The video is finished: what it took is recorded, unless its fingerprint is not the one it began with.

        The video's own LoRAs are merged into the weights, and take no time in a step.
        """
        if frozenset(item for item in fingerprint.items() if item[0] not in OF_REQUEST) != self._begun_with:
            return
        self._durations.totals.append(self._times.seconds)
        if (run := self._times.of_run(self.pixels)) is not None:
            self._durations.record_run(self._begun_with, self._params, run)


def request_kind(params: VideoParams) -> RequestKind:
    """What of a request changes the time of a run besides its size."""
    return params.step_cache, params.is_guided, params.generate_audio


def steps_of(params: VideoParams) -> int:
    """The denoising steps that are made."""
    return params.num_inference_steps - params.first_step


def pixels_of(params: VideoParams) -> int:
    """The pixels of all frames."""
    return params.width * params.height * params.num_frames


def _remember(known: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Put an entry last, and drop the first ones beyond the limit."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > limit:
        known.popitem(last=False)
