"""A generation with a checkpoint goes to an idle device that can resume it, and no device waits long for that."""

from dataclasses import dataclass, field, replace

import pytest

from server.core.generation import Generation, Status
from server.engine.interface import DeviceUnavailableError
from server.scheduler.suitability import LEAVE_SECONDS, Fingerprints, Lacks, Resuming, differences
from tests.contract.store.examples import new
from tests.server.conftest import Inside, eventually
from tests.server.scheduler.conftest import Start

SAVED = replace(new(), progress=0.4, fingerprint={"device": "L40", "torch": "2", "plan": "resident"})


@dataclass
class FakeDevice:
    is_idle: bool = True
    lacks: Lacks = field(default_factory=Lacks)
    fingerprints: Fingerprints = field(default_factory=Fingerprints)


def device(name: str, **changes: bool) -> FakeDevice:
    made = FakeDevice(**changes)
    made.fingerprints.note({"device": name, "torch": "2", "plan": "streamed"})
    return made


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_an_unlike_device_leaves_a_generation_for_a_while_and_not_again() -> None:
    like, unlike, clock = device("L40"), device("T4"), Clock()
    resuming = Resuming(lambda: [like, unlike], clock)

    assert resuming.seconds_left(SAVED, unlike) == LEAVE_SECONDS
    assert resuming.seconds_left(SAVED, like) == 0
    clock.now += LEAVE_SECONDS / 2
    assert resuming.seconds_left(SAVED, unlike) == LEAVE_SECONDS / 2
    clock.now += LEAVE_SECONDS
    assert resuming.seconds_left(SAVED, unlike) == 0
    assert resuming.seconds_left(replace(SAVED, attempt=9), unlike) == LEAVE_SECONDS


@pytest.mark.parametrize("generation", [new(), replace(SAVED, progress=0.0), replace(SAVED, fingerprint=None)])
def test_without_a_checkpoint_any_device_takes_it(generation: Generation) -> None:
    like, unlike = device("L40"), device("T4")

    assert Resuming(lambda: [like, unlike]).seconds_left(generation, unlike) == 0


def test_it_is_left_only_to_a_device_that_would_take_it() -> None:
    like, unlike, other = device("L40"), device("T4"), device("A2")
    resuming = Resuming(lambda: [like, unlike, other])
    assert resuming.others(unlike) == [like, other]
    like.is_idle = False
    assert resuming.seconds_left(SAVED, unlike) == 0
    like.is_idle = True
    like.lacks.note(SAVED.model, "no weights")
    assert resuming.seconds_left(SAVED, unlike) == 0


def test_devices_of_one_kind_need_not_look_at_the_queue() -> None:
    resuming = Resuming(lambda: [first, second])
    first, second = device("L40"), device("L40")

    assert resuming.others(first) == []


def test_fingerprints_differ_in_what_a_checkpoint_depends_on() -> None:
    one = {"device": "L40", "torch": "2", "plan": "resident"}

    assert differences(one, {**one, "plan": "streamed"}) == []
    assert differences(one, {"device": "T4", "plan": "resident", "threads": "8"}) == ["device", "threads", "torch"]


async def in_two_kinds(start: Start) -> Inside:
    """Two devices of different kinds, which both have loaded the model and are idle."""
    inside = await start(executors=2)
    for engine in inside.engines:
        engine.fingerprint = {"device": engine.state.device}
        engine.loading.clear()
    both = await inside.enqueue(2)
    await eventually(lambda: all(engine.loads for engine in inside.engines))
    for engine in inside.engines:
        engine.loading.set()
    for each in both:
        await inside.until(each)
    return inside


@pytest.mark.parametrize("busy", [0, 1])
async def test_a_generation_goes_on_where_it_can_be_resumed(
    start: Start, busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.suitability.LEAVE_SECONDS", 60.0)
    inside = await in_two_kinds(start)
    like, unlike = inside.engines[busy], inside.engines[1 - busy]
    for engine in inside.engines:
        engine.script = [engine.until_suspended]
    both = await inside.enqueue(2)
    await eventually(lambda: all(len(engine.runs) == 2 for engine in inside.engines))
    (saved,) = [each for each in both if each.id == like.runs[-1].generation_id]
    await unlike.suspend("", 0)
    await eventually(lambda: len(unlike.runs) == 3)

    await like.suspend("", 0)

    finished = await inside.until(saved)
    assert finished.status is Status.SUCCEEDED
    assert [job.attempt for job in like.runs if job.generation_id == saved.id] == [1, 2]


async def test_a_generation_starts_over_if_no_like_device_is_there(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    inside = await in_two_kinds(start)
    like, unlike = inside.engines

    def fail(_: object) -> None:
        like.save(like.runs[-1], 0.4)
        raise DeviceUnavailableError("Other programs hold its memory.")

    # it is left alone for long
    inside.dispatcher.executors[0].device.circuit._blocked = 10
    like.script, unlike.script = [fail], [unlike.until_suspended]
    both = await inside.enqueue(2)
    await eventually(lambda: len(unlike.runs) == 2 and len(like.runs) == 2)
    saved = next(each for each in both if each.id == like.runs[1].generation_id)

    await unlike.suspend("", 0)

    assert (await inside.until(saved)).status is Status.SUCCEEDED
    assert [job.attempt for job in unlike.runs if job.generation_id == saved.id] == [2]
    said = f"generation {saved.id} attempt 2 starts over on fake:1, which does not fit its checkpoint: device differ"
    assert said in caplog.text


def test_a_device_knows_the_last_fingerprints_only() -> None:
    known = Fingerprints()
    for number in range(100):
        known.note({"device": str(number)})

    assert not known.fit({"device": "0"})
    assert known.fit({"device": "99"})
