"""Devices whose machine lacks the weights or the LoRAs of a generation, which others make, or which waits for them."""

import asyncio
from collections.abc import Callable

import pytest

from pipelines.models.catalogue import CatalogueEntry
from server.core.circuit_breaker import Health
from server.core.fair_queue import NOTHING, Exclusions, Weights
from server.core.generation import Generation, Status
from server.engine.interface import WeightsMissingError
from server.engine.protocol import Done, Ready, Run
from server.scheduler.interface import Deployment
from server.scheduler.suitability import Lacks
from tests.server.conftest import Inside, eventually
from tests.server.fakes import FakeEngine
from tests.server.scheduler.conftest import Start, turns
from tests.server.scheduler.test_dispatcher import MODEL, OTHER


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def missing(engine: FakeEngine, what: str = "weights") -> WeightsMissingError:
    return WeightsMissingError(f"On {engine.state.device}: No {what} on this machine.")


def lacks_lora(engine: FakeEngine) -> Callable[[Run], Done]:
    def behave(job: Run) -> Done:
        raise missing(engine, f"LoRA {job.params.loras}")

    return behave


async def warnings_of(inside: Inside, generation: Generation) -> list[str]:
    """What the row says besides what is recorded."""
    placed = await inside.service.get("", generation.id)
    live = inside.service.live(placed)
    return [] if live is None or live.waits_for is None else [live.waits_for]


def test_what_is_missing_is_left_to_others_for_a_while_that_grows() -> None:
    clock = Clock()
    lacks = Lacks(clock)
    assert not lacks
    assert lacks.next_try is None

    assert lacks.note("a", "no weights") == 30
    clock.now += 10
    assert lacks.note(Weights("b", "1"), "no LoRA") == 30
    assert lacks.exclusions == Exclusions(frozenset({"a"}), frozenset({Weights("b", "1")}))
    assert lacks.next_try == 20
    clock.now += 20
    assert lacks.exclusions == Exclusions(frozenset(), frozenset({Weights("b", "1")}))
    assert lacks.of(Weights("a", "2")) == "no weights"
    assert [lacks.note("a", "still none") for _ in range(5)] == [60, 120, 240, 300, 300]
    lacks.forget("a")
    assert lacks.of(Weights("a")) is None
    assert (lacks.of(Weights("b", "1")), lacks.of(Weights("b"))) == ("no LoRA", None)
    assert lacks.note("a", "none") == 30


def test_so_many_lacks_are_known_and_no_more() -> None:
    lacks = Lacks(Clock())

    for number in range(1000):
        lacks.note(Weights("a", str(number)), "no LoRA")

    assert len(lacks.exclusions.weights) == 64
    assert Weights("a", "999") in lacks.exclusions.weights


async def test_a_model_that_one_machine_lacks_is_made_by_another(start: Start) -> None:
    inside = await start(executors=2)
    lacking, other = inside.engines
    lacking.load_errors = [missing(lacking)]
    other.loading.clear()

    both = await inside.enqueue(2)
    await eventually(lambda: lacking.loads and other.loads)
    await turns()
    other.loading.set()

    assert [(await inside.until(each)).status for each in both] == [Status.SUCCEEDED] * 2
    assert lacking.loads == [MODEL]
    assert len(other.runs) == 2
    status, _ = inside.dispatcher.devices()
    assert (status.health, status.failures) == (Health.HEALTHY, 0)
    assert status.error == "On fake:0: No weights on this machine."


async def test_a_machine_that_lacks_a_model_makes_others_meanwhile(start: Start) -> None:
    inside = await start()
    inside.engine.load_errors = [missing(inside.engine)]
    (waiting,) = await inside.enqueue()
    await eventually(lambda: inside.dispatcher.executors[0].device.lacks)

    (made,) = await inside.enqueue(model=OTHER)

    assert (await inside.until(made)).status is Status.SUCCEEDED
    assert (await inside.read(waiting)).status is Status.QUEUED
    assert inside.engine.loads == [MODEL, OTHER]


async def test_a_lora_that_one_machine_lacks_is_found_on_another(start: Start) -> None:
    inside = await start(executors=2)
    lacking, other = inside.engines
    lacking.script = [lacks_lora(lacking)]
    other.loading.clear()
    first, second = await inside.enqueue(2)
    await eventually(lambda: lacking.runs)
    await turns()
    other.loading.set()

    assert [(await inside.until(each)).status for each in (first, second)] == [Status.SUCCEEDED] * 2
    # it leaves the variant, here that without LoRAs, and not the model
    exclusions = inside.dispatcher.executors[0].device.lacks.exclusions
    assert exclusions == Exclusions(frozenset(), frozenset({Weights(MODEL)}))
    assert len(lacking.runs) == 1


async def test_a_generation_that_no_machine_can_make_says_why_and_goes_on_once_one_can(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.suitability._FIRST_SECONDS", 0.3)
    inside = await start(executors=2)
    for engine in inside.engines:
        engine.load_errors = [missing(engine) for _ in range(1000)]

    (waiting,) = await inside.enqueue()
    async with asyncio.timeout(60):
        while not (said := await warnings_of(inside, waiting)):  # noqa: ASYNC110 - it has no event of its own
            await asyncio.sleep(0.005)

    assert said == [
        "It waits, since every machine lacks files. On fake:0: No weights on this machine. On fake:1: No weights on "
        "this machine."
    ]
    for engine in inside.engines:
        engine.load_errors.clear()
    # nothing wakes the devices but the time
    finished = await inside.until(waiting)
    assert finished.status is Status.SUCCEEDED
    assert finished.warnings == ()
    assert await warnings_of(inside, finished) == []


async def test_what_may_be_tried_again_while_the_queue_is_looked_at_is_tried(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.suitability._FIRST_SECONDS", 0.2)
    inside = await start()
    inside.engine.load_errors = [missing(inside.engine)]
    claim, slow = inside.store.attempts.claim, asyncio.Event()

    async def claim_slowly(
        owner: str, lease: float, holding: Weights | None = None, exclusions: Exclusions = NOTHING
    ) -> Generation | None:
        found = await claim(owner, lease, holding, exclusions)
        if exclusions != NOTHING:
            slow.set()
            await asyncio.sleep(0.4)
        return found

    monkeypatch.setattr(inside.store.attempts, "claim", claim_slowly)
    (waiting,) = await inside.enqueue()

    await asyncio.wait_for(slow.wait(), 60)
    # nothing wakes the device but the time
    assert (await inside.until(waiting)).status is Status.SUCCEEDED


async def test_a_busy_device_may_have_the_files_and_then_the_row_says_nothing(start: Start) -> None:
    inside = await start(executors=2)
    lacking, other = inside.engines
    lacking.load_errors, other.script = [missing(lacking)], [other.until_cancelled]
    lacking.loading.clear()
    both = await inside.enqueue(2)
    await eventually(lambda: lacking.loads and other.runs)
    lacking.loading.set()
    (waiting,) = [each for each in both if each.id != other.runs[0].generation_id]

    await inside.until(waiting, Status.QUEUED)

    assert await warnings_of(inside, waiting) == []


async def test_a_load_that_was_asked_for_fails_and_the_next_goes_to_a_machine_that_has_the_weights(
    start: Start,
) -> None:
    inside = await start(executors=2)
    lacking, other = inside.engines
    lacking.load_errors = [missing(lacking)]
    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: inside.dispatcher.executors[0].device.lacks)
    assert inside.dispatcher.deployment(MODEL) is Deployment.ERROR

    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: other.state.is_ready)

    assert inside.dispatcher.deployment(MODEL) is Deployment.ACTIVE
    assert inside.dispatcher.devices()[0].health is Health.HEALTHY


async def test_what_a_device_cannot_make_does_not_keep_its_model_loaded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.suitability._FIRST_SECONDS", 0.05)
    monkeypatch.setattr("server.scheduler.suitability._LONGEST_SECONDS", 0.05)
    inside = await start(idle_unload=0.5)
    await inside.until((await inside.enqueue())[0])
    load = inside.engine.load

    async def lack_other(entry: CatalogueEntry) -> Ready:
        if entry.id == OTHER:
            raise missing(inside.engine)
        return await load(entry)

    monkeypatch.setattr(inside.engine, "load", lack_other)
    (waiting,) = await inside.enqueue(model=OTHER)

    await eventually(lambda: inside.engine.is_closed)

    assert (await inside.read(waiting)).status in (Status.QUEUED, Status.PROCESSING)
