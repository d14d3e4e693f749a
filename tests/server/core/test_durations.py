"""Recorded durations of a device's runs: recorded once, depending on how a run ended, and bounded."""

from dataclasses import replace

import pytest

from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams
from server.core import durations as d
from server.core.durations import Durations, Interval, RunDurations, RunTimer

PARAMS = VideoParams("an ox", " ", 10, 10, 1, 2, 5.0, 0)
PLAN = {"plan": "resident"}
KEY = frozenset(PLAN.items())
FIRST, LATER = (Stage.DENOISE, True), (Stage.DENOISE, False)


class Device:
    """Durations with a clock that the reports set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.durations = Durations(lambda: self.now)

    def begin(self, plan: dict[str, str] = PLAN, params: VideoParams = PARAMS, model: str = "wan") -> RunTimer:
        return self.durations.begin(model, plan, params)

    def render(self, timer: RunTimer, step: float = 3.0) -> None:
        """The reports of a worker until the device is free: two steps, of which the first takes two seconds longer."""
        began = self.now
        for number, seconds in ((0, 1.0), (1, step + 3), (2, 2 * step + 3)):
            self.now = began + seconds
            timer.note(Progress(Stage.DENOISE, number, 2, 0.4 * number, seconds))
        timer.leave_device()

    def finish(self, timer: RunTimer, plan: dict[str, str] = PLAN) -> None:
        """The reports about the file, long after."""
        self.now += 100
        timer.note(Progress(Stage.DECODE, 1, 1, 1.0, 50.0))
        timer.succeed(plan)

    def make(self, plan: dict[str, str] = PLAN, params: VideoParams = PARAMS, model: str = "wan") -> None:
        timer = self.begin(plan, params, model)
        self.render(timer)
        self.finish(timer, plan)


@pytest.fixture
def device() -> Device:
    return Device()


def test_a_finished_run_is_recorded_for_both_readers(device: Device) -> None:
    device.make()

    durations = device.durations
    assert [*durations.totals] == [50.0]
    assert [*durations.runs(KEY, PARAMS)] == [RunDurations(100, 4.0, 41.0)]
    assert [*durations.runs_of_model("wan", PARAMS)] == [RunDurations(100, 4.0, 41.0)]
    assert [*durations.intervals(KEY, FIRST)] == [Interval(100, 5.0)]
    assert [*durations.intervals(KEY, LATER)] == [Interval(100, 3.0)]
    # not recorded: encoding a prompt, which may be cached, and writing a file, which overlaps with the next run
    for kind in ((Stage.PROMPT, True), (Stage.DECODE, True), (Stage.DECODE, False)):
        assert [*durations.intervals(KEY, kind)] == []


def test_only_the_intervals_of_a_failed_run_are_recorded(device: Device) -> None:
    device.render(device.begin())

    assert [*device.durations.intervals(KEY, LATER)] == [Interval(100, 3.0)]
    assert [*device.durations.totals] == [*device.durations.runs(KEY, PARAMS)] == []


def test_a_run_that_changed_its_plan_is_not_recorded(device: Device) -> None:
    timer = device.begin()
    timer.note(Progress(Stage.DENOISE, 0, 2, 0.0, 0.5))
    timer.note_reload()
    device.render(timer)
    device.finish(timer, {"plan": "streamed"})

    assert [*device.durations.totals] == []
    for plan in (KEY, frozenset({("plan", "streamed")})):
        assert [*device.durations.runs(plan, PARAMS)] == [*device.durations.intervals(plan, FIRST)] == []


@pytest.mark.parametrize("other", [replace(PARAMS, guidance_scale=1.0), replace(PARAMS, step_cache=StepCaching.FAST)])
def test_runs_of_different_kinds_are_separate_but_share_intervals(device: Device, other: VideoParams) -> None:
    device.make()

    assert [*device.durations.runs(KEY, other)] == [*device.durations.runs_of_model("wan", other)] == []
    assert [*device.begin(params=other).known] == []
    timer = device.begin(params=other)
    timer.note(Progress(Stage.DENOISE, 0, 2, 0.0, 0.5))
    assert [*timer.known] == [Interval(100, 5.0)]


def test_runs_of_a_model_are_those_of_its_last_fingerprint(device: Device) -> None:
    device.make()
    device.begin({"plan": "streamed"})

    assert [*device.durations.runs_of_model("wan", PARAMS)] == []
    device.begin(PLAN)
    assert len(device.durations.runs_of_model("wan", PARAMS)) == 1


def test_the_most_recently_used_fingerprints_are_kept(device: Device) -> None:
    plans = [{"plan": str(number)} for number in range(d.FINGERPRINTS + 1)]
    for plan in (*plans[:-1], plans[0], plans[-1]):
        device.make(plan)

    kept = [bool(device.durations.runs(frozenset(plan.items()), PARAMS)) for plan in plans]
    assert kept == [True, False, *[True] * (d.FINGERPRINTS - 1)]


def test_the_most_recently_used_kinds_of_requests_are_kept(device: Device) -> None:
    models = [str(number) for number in range(d.KINDS + 1)]
    for model in (*models[:-1], models[0], models[-1]):
        device.make(model=model)

    kept = [bool(device.durations.runs_of_model(model, PARAMS)) for model in models]
    assert kept == [True, False, *[True] * (d.KINDS - 1)]


def test_the_last_runs_of_a_kind_are_kept(device: Device) -> None:
    for _ in range(3 * d.RUNS):
        device.make()

    durations = device.durations
    assert len(durations.runs(KEY, PARAMS)) == len(durations.totals) == d.RUNS
    assert len(durations.intervals(KEY, LATER)) == d.INTERVALS
