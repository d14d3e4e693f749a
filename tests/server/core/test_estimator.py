"""Estimates of a generation's time: a guess before the first run, learned from then on."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams
from server.core.durations import Durations, RunDurations, RunTimer
from server.core.estimator import Estimator, Forecast, rest_seconds, step_seconds

PARAMS = VideoParams("an ox", " ", 100, 100, 10, 10, 5.0, 0)
MODEL = "wan"
FINGERPRINT = {"weights": "abc", "plan": "resident"}
PIXELS = 100_000


def step_of(pixels: int) -> float:
    """Seconds per step: a part linear in the pixels and a quadratic part."""
    return 1e-6 * pixels + 2e-12 * pixels**2


def rest_of(pixels: int) -> float:
    return 0.5 + 1e-6 * pixels


def reports(params: VideoParams, since: int = 0, slower: float = 1.0) -> Iterator[Progress]:
    """The reports of a run that is resumed after `since` steps, on a device that is `slower` times as slow."""
    pixels, steps = params.width * params.height * params.num_frames, params.num_inference_steps
    seconds = 0.02
    yield Progress(Stage.PROMPT, 0, 1, 0.0, 0.0)
    for step in range(since, steps + 1):
        yield Progress(Stage.DENOISE, step, steps, 0.02 + 0.8 * step / steps, seconds)
        seconds += slower * step_of(pixels)
    seconds -= slower * step_of(pixels)
    for group in range(1, 5):
        part = slower * rest_of(pixels) * group / 4
        yield Progress(Stage.DECODE, group, 4, 0.82 + 0.18 * group / 4, seconds + part)


def begin(estimator: Estimator, params: VideoParams) -> tuple[Forecast, RunTimer]:
    """The forecast of a run, and the timer that records it."""
    return estimator.begin(FINGERPRINT, params), estimator._durations.begin(MODEL, FINGERPRINT, params)


def run(estimator: Estimator, params: VideoParams = PARAMS, since: int = 0, slower: float = 1.0) -> list[float | None]:
    """Replay a run; returns the error of the estimate at each report, relative to the run's time."""
    forecast, timer = begin(estimator, params)
    estimates = [(now, forecast.remaining(now), timer.note(now)) for now in reports(params, since, slower)]
    end = estimates[-1][0].seconds
    timer.succeed(FINGERPRINT)
    return [None if left is None else abs(left - (end - now.seconds)) / end for now, left, _ in estimates]


def test_the_first_run_is_guessed_and_the_next_is_estimated_closely() -> None:
    estimator = Estimator(Durations())
    first = run(estimator)
    assert first[0] is None
    assert first[1] is None
    assert all(error is not None and error < 0.5 for error in first[2:])

    second = run(estimator)

    # the time to encode the prompt, which may be zero, is not part of the estimate
    assert all(error is not None and error < 0.05 for error in second)


@pytest.mark.parametrize(
    "other",
    [
        replace(PARAMS, width=200, height=150, num_frames=40),
        replace(PARAMS, width=30, height=30),
        replace(PARAMS, num_inference_steps=50),
    ],
)
def test_runs_of_two_sizes_predict_every_other_size(other: VideoParams) -> None:
    estimator = Estimator(Durations())
    run(estimator)
    run(estimator, replace(PARAMS, num_frames=80))

    assert all(error is not None and error < 0.1 for error in run(estimator, other))


def test_runs_of_one_size_roughly_predict_another() -> None:
    estimator = Estimator(Durations())
    run(estimator)

    first = run(estimator, replace(PARAMS, num_frames=20))[0]

    assert first is not None
    assert first < 0.35


def test_a_wrong_step_estimate_from_another_size_does_not_change_the_rest() -> None:
    estimator = Estimator(Durations())
    run(estimator)

    forecast = estimator.begin(FINGERPRINT, replace(PARAMS, num_frames=20))
    estimates = [(now, forecast.remaining(now)) for now in reports(replace(PARAMS, num_frames=20), slower=3.0)]

    denoised = next(left for now, left in estimates if now.stage is Stage.DENOISE and now.step == now.steps)
    assert denoised == pytest.approx(rest_of(PIXELS) * 2)


def test_the_estimate_adapts_to_a_slower_device() -> None:
    estimator = Estimator(Durations())
    run(estimator)

    errors = run(estimator, slower=3.0)

    assert errors[0] is not None
    assert errors[0] > 0.5
    # after eight of ten steps only the rest is unknown: half of the slowdown is applied to it
    assert errors[9] is not None
    assert errors[9] < 0.2


@pytest.mark.parametrize(
    "other",
    [
        replace(PARAMS, guidance_scale=1.0),
        replace(PARAMS, step_cache=StepCaching.FAST),
    ],
)
def test_other_kinds_of_requests_are_learned_separately(other: VideoParams) -> None:
    estimator = Estimator(Durations())
    run(estimator)

    assert estimator.begin(FINGERPRINT, other).remaining(Progress(Stage.PROMPT, 0, 1, 0.0, 0.0)) is None
    assert estimator.begin({}, PARAMS).remaining(Progress(Stage.PROMPT, 0, 1, 0.0, 0.0)) is None


def test_a_resumed_run_is_estimated_and_recorded() -> None:
    estimator = Estimator(Durations())
    run(estimator, since=6)

    # the estimator learns from the first denoising report that the run was resumed
    assert all(error is not None and error < 0.1 for error in run(estimator, since=3)[1:])
    assert all(error is not None and error < 0.1 for error in run(estimator))


def test_a_run_resumed_after_its_last_step_is_not_recorded() -> None:
    estimator = Estimator(Durations())
    run(estimator, since=10)

    assert run(estimator)[0] is None


def test_the_total_is_estimated_closely_if_later_steps_are_cheaper() -> None:
    params = replace(PARAMS, step_cache=StepCaching.FAST)

    def uneven(forecast: Forecast, timer: RunTimer) -> list[tuple[float, float | None]]:
        seconds, estimates = 0.0, []
        for step in range(11):
            now = Progress(Stage.DENOISE, step, 10, 0.02 + 0.08 * step, seconds)
            timer.note(now)
            estimates.append((seconds, forecast.remaining(now)))
            # the first five steps are computed, then every second one
            seconds += 1.0 if step < 5 or step % 2 else 0.0
        timer.succeed(FINGERPRINT)
        return estimates

    estimator = Estimator(Durations())
    uneven(*begin(estimator, params))

    estimates = uneven(*begin(estimator, params))

    end = estimates[-1][0]
    assert all(left is not None and abs(left - (end - seconds)) <= 1.0 for seconds, left in estimates[:-1])


@pytest.mark.parametrize("law", [step_seconds, rest_seconds])
@pytest.mark.parametrize("sign", [1, -1])
def test_estimates_fit_known_sizes_and_stay_positive_with_noise(
    law: Callable[[list[RunDurations], int], float | None], sign: int
) -> None:
    runs = [RunDurations(PIXELS, 1.0, 1.0), RunDurations(2 * PIXELS, 1.0 + sign * 0.9, 1.0 + sign * 0.9)]

    estimates = [law(runs, pixels) for pixels in (1, PIXELS, 2 * PIXELS, 20 * PIXELS)]

    assert all(seconds is not None and seconds > 0 for seconds in estimates)
    assert estimates[1:3] == [pytest.approx(1.0), pytest.approx(1.0 + sign * 0.9)]


def test_a_queued_generation_is_estimated_from_its_kind_or_else_as_typical() -> None:
    estimator = Estimator(Durations())
    assert estimator.typical is None
    assert estimator.total(MODEL, PARAMS) is None
    run(estimator)
    run(estimator, replace(PARAMS, num_inference_steps=20))

    whole = 10 * step_of(PIXELS) + rest_of(PIXELS)
    assert estimator.total(MODEL, PARAMS) == pytest.approx(whole)
    assert estimator.total(MODEL, replace(PARAMS, num_inference_steps=5)) == pytest.approx(whole - 5 * step_of(PIXELS))
    # the mean of both, including the time to encode the prompts
    assert estimator.typical == pytest.approx(whole + 5 * step_of(PIXELS) + 0.02)
    assert estimator.total("another", PARAMS) == estimator.typical
    assert estimator.total(MODEL, replace(PARAMS, guidance_scale=0)) == estimator.typical
