"""Estimates how long a generation will still take on a device, from the times that others took there.

A step's cost grows with the video's pixels and, through attention, with their square; what follows denoising grows with
the pixels. So the seconds of a step per pixel lie on a line, and so do the seconds of the rest: two lines for each kind
of computation, fitted to the last runs, and scaled to go through those of the nearest size. The steps already made in a
run correct the estimate of its other steps, and by half that of the rest.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, linear_regression

from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams
from server.core.durations import Durations, RunDurations, StepTimes, pixels_of, steps_of

EXPECTED = 1
"""The time expected of a step weighs as much as so many steps of this run."""

_GUESS_FROM = 0.04
"""From less of a generation than this (0 … 1) nothing is guessed, if nothing is known of its kind."""

_NEAR = 4
"""A size is told from others whose pixels are at most this many times more or fewer."""

_SCALING = 1.25
"""The power of the pixels that a step grows by, where runs of only one size are known: between a line and a square."""


class Estimator:
    """Reads what is remembered of one device."""

    def __init__(self, durations: Durations) -> None:
        self._durations = durations

    def begin(self, fingerprint: Mapping[str, str], params: VideoParams) -> "Forecast":
        """Follow a run with this fingerprint, which begins now."""
        return Forecast(self._durations.runs(frozenset(fingerprint.items()), params), params)

    @property
    def typical(self) -> float | None:
        """Mean seconds of the last generations, of whatever kind; None before the first."""
        return fmean(self._durations.totals) if self._durations.totals else None

    def total(self, model: str, params: VideoParams) -> float | None:
        """Seconds of a generation that has not begun; those of a typical one if nothing is known of its kind."""
        runs = self._durations.runs_of_model(model, params)
        step, rest = (law(tuple(runs), pixels_of(params)) for law in (step_seconds, rest_seconds))
        return self.typical if step is None or rest is None else steps_of(params) * step + rest

    def near_total(self, model: str, params: VideoParams) -> float | None:
        """Seconds of a generation that has not begun; None if none of its kind and about its size is known."""
        pixels = pixels_of(params)
        known = [run.pixels for run in self._durations.runs_of_model(model, params)]
        is_near = any(max(size, pixels) <= _NEAR * min(size, pixels) for size in known)
        return self.total(model, params) if is_near else None


class Forecast:
    """Estimates for one run while it goes on."""

    def __init__(self, runs: Sequence[RunDurations], params: VideoParams) -> None:
        self._runs = runs
        self._pixels = pixels_of(params)
        self._steps = steps_of(params)
        self._is_even = params.step_cache is StepCaching.EXACT
        self._step = step_seconds(runs, self._pixels)
        self._rest = rest_seconds(runs, self._pixels)
        self._times = StepTimes()

    def remaining(self, now: Progress) -> float | None:
        """Seconds from a report of progress to the end; None if that cannot be estimated."""
        self._times.note(now)
        if self._step is None or self._rest is None:
            return now.seconds * (1 - now.fraction) / now.fraction if now.fraction >= _GUESS_FROM else None
        began, denoised = self._times.began, self._times.denoised
        if began is None:
            return self._step * self._steps + self._rest
        rest = self._rest
        sizes = {run.pixels for run in self._runs}
        # from one other size a step's time is a guess: that it was wrong says nothing of the device
        if self._is_even and (len(sizes) > 1 or self._pixels in sizes):
            rest *= sqrt(_pace(began, denoised or now, self._step))
        if denoised is not None:
            if now.stage is Stage.SOUND:
                return max(0.0, rest - (now.seconds - denoised.seconds))
            share = now.step / now.steps if now.stage is Stage.DECODE else 0.0
            return (1 - share) * rest
        return self._steps_left(began, now, self._step) + rest

    def _steps_left(self, began: Progress, now: Progress, expected: float) -> float:
        left = now.steps - now.step
        if self._is_even:
            return left * expected * _pace(began, now, expected)
        # later steps are cheaper than earlier ones: of these only the sum is known
        taken = now.seconds - began.seconds
        return max(expected * (now.steps - began.step) - taken, expected * left / 2)


def _pace(began: Progress, now: Progress, expected: float) -> float:
    """What a step of this run takes, as a share of what was expected."""
    made, taken = now.step - began.step, now.seconds - began.seconds
    return (taken / expected + EXPECTED) / (made + EXPECTED)


def step_seconds(runs: Sequence[RunDurations], pixels: int) -> float | None:
    """Seconds of a denoising step of a video with so many pixels; None if nothing is known."""
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


def rest_seconds(runs: Sequence[RunDurations], pixels: int) -> float | None:
    """Seconds after the last denoising step; None if nothing is known."""
    if not runs:
        return None
    if len({run.pixels for run in runs}) == 1:
        return fmean(run.rest for run in runs) * pixels / runs[0].pixels
    slope, intercept = _line([(run.pixels, run.rest) for run in runs])
    ratios = [run.rest / (intercept + slope * run.pixels) for run in _nearest(runs, pixels)]
    return (intercept + slope * pixels) * fmean(ratios)


def _nearest(runs: Sequence[RunDurations], pixels: int) -> list[RunDurations]:
    """The runs of the nearest size, by ratio: what is off the line there is off it for a neighbour too."""
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
