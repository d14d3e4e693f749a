"""How long a generation will still take on a device, by what the device has taken for others.

A step's cost grows with the video's pixels and, through attention, with their square; what follows denoising grows with
the pixels. So the seconds of a step per pixel lie on a line, and so do the seconds of the rest: two lines for each way
of computing, fitted to the last runs, and moved to go through those of the nearest size. Steps already made in a run
correct what its device was expected to take for the others, and by half for the rest.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, linear_regression

from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams

RUNS = 16
"""So many runs of a kind are remembered."""

EXPECTED = 1
"""How many steps of this run what was expected of a step weighs as much as."""

_GUESS_FROM = 0.04
"""A guess from less of a generation than this, with nothing known of its kind, is none."""

_TICK = 1e-6

_SCALING = 1.25
"""The power of the pixels that a step grows by, where runs of only one size are known: between a line and a square."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a finished run took: seconds a denoising step, and seconds after the last; `pixels` of all frames."""

    pixels: int
    step: float
    rest: float


class Estimator:
    """What one device has taken; it outlives the workers."""

    def __init__(self) -> None:
        self._runs: dict[object, deque[Run]] = {}
        self._last: dict[object, deque[Run]] = {}
        self._totals: deque[float] = deque(maxlen=RUNS)

    def begin(self, model: str, fingerprint: Mapping[str, str], params: VideoParams) -> "Forecast":
        """Foretell a run by a model with this fingerprint."""
        kind = frozenset(fingerprint.items()), *_way(params)
        runs = self._runs.setdefault(kind, deque(maxlen=RUNS))
        self._last[model, params.run_fast, *_way(params)] = runs
        return Forecast(runs, params, self._totals)

    @property
    def typical(self) -> float | None:
        """Seconds of a generation, of whatever kind; None before the first."""
        return fmean(self._totals) if self._totals else None

    def total(self, model: str, params: VideoParams) -> float | None:
        """Seconds of a generation that has not begun, by its kind's last fingerprint; None if nothing is known."""
        runs = self._last.get((model, params.run_fast, *_way(params)), ())
        step, rest = (law(tuple(runs), _pixels(params)) for law in (step_seconds, rest_seconds))
        return self.typical if step is None or rest is None else params.num_inference_steps * step + rest


class Forecast:
    """One run on its way; what it took is learned at its end."""

    def __init__(self, runs: deque[Run], params: VideoParams, totals: deque[float]) -> None:
        self._runs = runs
        self._totals = totals
        self._pixels = _pixels(params)
        self._steps = params.num_inference_steps
        self._is_even = params.step_cache is StepCaching.EXACT
        self._step = step_seconds(runs, self._pixels)
        self._rest = rest_seconds(runs, self._pixels)
        self._began: Progress | None = None
        self._denoised: Progress | None = None
        self._seconds = 0.0

    def remaining(self, now: Progress) -> float | None:
        """Seconds from a report of progress to the end; None while nobody can tell."""
        self._note(now)
        if self._step is None or self._rest is None:
            return now.seconds * (1 - now.fraction) / now.fraction if now.fraction >= _GUESS_FROM else None
        if self._began is None:
            return self._step * self._steps + self._rest
        rest = self._rest
        sizes = {run.pixels for run in self._runs}
        # by one other size a step's time is a guess: that it was wrong says nothing of the device
        if self._is_even and (len(sizes) > 1 or self._pixels in sizes):
            rest *= sqrt(self._pace(self._denoised or now, self._step))
        if self._denoised is not None:
            share = now.step / now.steps if now.stage is Stage.DECODE else 0.0
            return (1 - share) * rest
        return self._steps_left(now, self._step) + rest

    def end(self) -> None:
        """The run has brought its video, when it last told how far it is."""
        self._totals.append(self._seconds)
        if self._began is None or self._denoised is None:
            return
        steps = self._denoised.step - self._began.step
        # a run that was taken up after its last step tells nothing of a step
        if steps > 0:
            step = (self._denoised.seconds - self._began.seconds) / steps
            # never nothing, so that ratios can be taken
            self._runs.append(Run(self._pixels, max(step, _TICK), max(self._seconds - self._denoised.seconds, _TICK)))

    def _note(self, now: Progress) -> None:
        self._seconds = now.seconds
        if now.stage is not Stage.DENOISE:
            return
        if self._began is None:
            self._began = now
        if now.step == now.steps:
            self._denoised = now

    def _pace(self, now: Progress, expected: float) -> float:
        """What a step of this run takes, in shares of what was expected."""
        assert self._began is not None
        made, taken = now.step - self._began.step, now.seconds - self._began.seconds
        return (taken / expected + EXPECTED) / (made + EXPECTED)

    def _steps_left(self, now: Progress, expected: float) -> float:
        assert self._began is not None
        left = now.steps - now.step
        if self._is_even:
            return left * expected * self._pace(now, expected)
        # later steps are cheaper than earlier ones: of these only the whole is known
        taken = now.seconds - self._began.seconds
        return max(expected * (now.steps - self._began.step) - taken, expected * left / 2)


def _way(params: VideoParams) -> tuple[StepCaching, bool]:
    """What of a request decides how it is computed."""
    return params.step_cache, params.is_guided


def _pixels(params: VideoParams) -> int:
    return params.width * params.height * params.num_frames


def step_seconds(runs: Sequence[Run], pixels: int) -> float | None:
    """Seconds of a step of a video of so many pixels; None if nothing is known."""
    if not runs:
        return None
    sizes = {run.pixels for run in runs}
    if len(sizes) == 1:
        known = sizes.pop()
        return float(fmean(run.step for run in runs) * (pixels / known) ** _SCALING)
    slope, intercept = _line([(run.pixels, run.step / run.pixels) for run in runs])
    return (
        pixels
        * (intercept + slope * pixels)
        * fmean(run.step / (run.pixels * (intercept + slope * run.pixels)) for run in _nearest(runs, pixels))
    )


def rest_seconds(runs: Sequence[Run], pixels: int) -> float | None:
    """Seconds of what follows denoising; None if nothing is known."""
    if not runs:
        return None
    if len({run.pixels for run in runs}) == 1:
        return fmean(run.rest for run in runs) * pixels / runs[0].pixels
    slope, intercept = _line([(run.pixels, run.rest) for run in runs])
    ratios = [run.rest / (intercept + slope * run.pixels) for run in _nearest(runs, pixels)]
    return (intercept + slope * pixels) * fmean(ratios)


def _nearest(runs: Sequence[Run], pixels: int) -> list[Run]:
    """The runs of the size next to one, by their ratio: what is off the line there is off it for a neighbour too."""
    next_to = min((run.pixels for run in runs), key=lambda size: max(size, pixels) / min(size, pixels))
    return [run for run in runs if run.pixels == next_to]


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope and intercept of the line through points, neither below 0."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    slope, intercept = linear_regression(xs, ys)
    if slope < 0:
        return 0.0, fmean(ys)
    if intercept < 0:
        return linear_regression(xs, ys, proportional=True).slope, 0.0
    return slope, intercept
