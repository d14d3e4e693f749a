"""How long a worker may go on without progress: learned from its device, more for new work, sleep not counted."""

from dataclasses import replace

import pytest

from pipelines.core.progress import Progress, Stage
from pipelines.core.request import VideoParams
from server.core.durations import Durations
from server.engine.watchdog import FACTOR, TICK, AwakeClock, Patience, RunWatch, Watch, Watchdog

PATIENCE = Patience(floor=120, first=3600, load=1800)
SMALL = VideoParams("an ox", " ", 480, 832, 81, 4, 5.0, 7)
LARGE = replace(SMALL, height=720, width=1280)
PLAN = {"plan": "resident"}
AREA = (1280 * 720) / (832 * 480)


class Time:
    """A clock that a test advances; it is read at every tick, as by a server."""

    def __init__(self) -> None:
        self.now = 0.0
        self.clock = AwakeClock(lambda: self.now)

    def pass_(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + TICK)
            self.clock()

    def sleep(self, seconds: float) -> None:
        """The machine sleeps: time passes, and the clock is not read."""
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


class WatchdogOfOne(Watchdog):
    """A watchdog, and the durations that it reads."""

    def __init__(self, patience: Patience, durations: Durations) -> None:
        super().__init__(patience, durations)
        self.durations = durations

    def begin(self, fingerprint: dict[str, str], params: VideoParams) -> RunWatch:
        return self.watch_run(self.durations.begin("wan", fingerprint, params))


@pytest.fixture
def dog(time: Time) -> WatchdogOfOne:
    return WatchdogOfOne(PATIENCE, Durations(time.clock))


def at(stage: Stage, step: int, steps: int = 4) -> Progress:
    return Progress(stage, step, steps, fraction=0.5, seconds=1.0)


def denoise(watch: RunWatch, time: Time, *seconds: float) -> None:
    """Report the beginning of denoising, and a step after each of these times."""
    watch.note(at(Stage.PROMPT, 0, 1))
    watch.note(at(Stage.DENOISE, 0))
    for step, each in enumerate(seconds, start=1):
        time.pass_(each)
        assert watch.overdue() is None
        watch.note(at(Stage.DENOISE, step))


def finish(dog: WatchdogOfOne, time: Time, params: VideoParams, *seconds: float) -> None:
    watch = dog.begin(PLAN, params)
    denoise(watch, time, *seconds)
    watch.note_done()
    watch.end()


def patience_of(watch: Watch, time: Time) -> float:
    """Seconds from now until the watch is overdue."""
    begun = time.now
    while watch.overdue() is None:
        time.pass_(1)
    return time.now - begun - 1


def test_a_first_step_may_take_long_and_the_others_as_long_as_it_tells(dog: WatchdogOfOne, time: Time) -> None:
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time)
    assert watch.bound == PATIENCE.first

    time.pass_(600)
    watch.note(at(Stage.DENOISE, 1))
    assert watch.bound == FACTOR * 600
    assert patience_of(watch, time) == FACTOR * 600
    assert watch.overdue() == "it made no progress for 6000 seconds while denoising and was killed"


def test_merging_loras_may_take_as_long_as_loading_and_says_nothing_of_the_next(dog: WatchdogOfOne, time: Time) -> None:
    for _ in range(2):
        watch = dog.begin(PLAN, SMALL)
        for tensor in range(3):
            watch.note(at(Stage.LORAS, tensor))
            assert watch.bound == PATIENCE.load
            time.pass_(PATIENCE.load - 1)
            assert watch.overdue() is None
        denoise(watch, time, 1.0)
        watch.note_done()
        watch.end()


def test_quick_steps_leave_the_floor(dog: WatchdogOfOne, time: Time) -> None:
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time, 2.0, 1.0)

    assert patience_of(watch, time) == PATIENCE.floor


def test_the_same_place_once_more_is_no_progress(dog: WatchdogOfOne, time: Time) -> None:
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time, 2.0)
    for _ in range(300):
        time.pass_(0.5)
        watch.note(at(Stage.DENOISE, 1))

    assert watch.overdue() is not None


def test_what_a_run_took_is_expected_of_the_next_even_by_another_worker(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 300, 20, 20)
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time)
    assert watch.bound == FACTOR * 300

    time.pass_(15)
    watch.note(at(Stage.DENOISE, 1))
    assert watch.bound == FACTOR * 20, "the first step, with compiling in it, says nothing of the others"


def test_a_larger_video_is_given_more_and_a_smaller_one_no_less(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 20, 20)
    larger, smaller = dog.begin(PLAN, LARGE), dog.begin(PLAN, replace(SMALL, num_frames=5))
    for watch in (larger, smaller):
        denoise(watch, time)

    assert larger.bound == pytest.approx(FACTOR * 20 * AREA**2)
    assert smaller.bound == FACTOR * 20


@pytest.mark.parametrize(("seconds", "bound"), [(15, PATIENCE.first), (500, FACTOR * 500)])
def test_what_is_far_from_known_is_as_if_new_but_never_less_than_known(
    dog: WatchdogOfOne, time: Time, seconds: float, bound: float
) -> None:
    finish(dog, time, replace(SMALL, width=16, height=16, num_frames=1), seconds)
    watch = dog.begin(PLAN, LARGE)
    denoise(watch, time)

    assert watch.bound == bound


def test_another_plan_is_learned_anew(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 2, 2)
    watch = dog.begin({"plan": "streamed"}, SMALL)
    denoise(watch, time)

    assert watch.bound == PATIENCE.first


def test_one_slow_run_is_forgotten_after_some(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 300, 300)
    for _ in range(8):
        finish(dog, time, SMALL, 20, 20)
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time)

    assert watch.bound == FACTOR * 20


def test_encoding_a_prompt_may_read_weights_however_quick_the_last_one_was(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 2, 2)
    watch = dog.begin(PLAN, SMALL)
    assert watch.bound == PATIENCE.load
    watch.note(at(Stage.PROMPT, 0, 1))
    assert watch.bound == PATIENCE.load


def test_the_first_frames_are_not_measured_by_the_steps_before(dog: WatchdogOfOne, time: Time) -> None:
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time, 2, 2, 2, 2)

    assert watch.bound == PATIENCE.first
    assert watch.doing == Stage.DECODE


def test_a_model_loaded_once_more_amid_a_run_is_waited_for_and_its_pace_is_new(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 2, 2)
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time, 2, 2)
    watch.note_loading()
    assert (watch.bound, watch.doing) == (PATIENCE.load, "loading")
    denoise(watch, time)
    assert watch.bound == PATIENCE.first
    time.pass_(900)
    watch.note(at(Stage.DENOISE, 1))
    watch.end()

    again = dog.begin(PLAN, SMALL)
    denoise(again, time)
    assert again.bound == PATIENCE.floor, "what the leaner plan took is not held against this one"


def test_who_was_killed_for_being_slow_is_given_longer_until_a_run_is_done(dog: WatchdogOfOne, time: Time) -> None:
    finish(dog, time, SMALL, 2, 2)
    bounds = []
    for _ in range(4):
        watch = dog.begin(PLAN, SMALL)
        denoise(watch, time)
        bounds.append(watch.bound)
        patience_of(watch, time)
        watch.end()
    assert bounds == [120, 480, 1920, PATIENCE.first]

    finish(dog, time, SMALL, 2, 2)
    watch = dog.begin(PLAN, SMALL)
    denoise(watch, time)
    assert watch.bound == PATIENCE.floor


def test_a_server_that_slept_blames_no_worker(dog: WatchdogOfOne, time: Time) -> None:
    watch = dog.watch_load()
    time.pass_(PATIENCE.load - 1)
    time.sleep(12 * 3600)
    assert watch.overdue() is None

    time.pass_(2)
    assert watch.overdue() == "it made no progress for 1800 seconds while loading and was killed"


def test_a_load_that_reads_on_is_never_overdue(dog: WatchdogOfOne, time: Time) -> None:
    watch = dog.watch_load()
    for _ in range(5):
        time.pass_(PATIENCE.load - 1)
        assert watch.overdue() is None
        watch.note_progress()
