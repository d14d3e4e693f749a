"""Devices that are removed while the server runs: what they held, and what they were asked to do, is not lost."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation, Status
from server.engine.interface import GenerationFailedError, RunSuspendedError
from server.engine.protocol import Done, Run
from server.scheduler.interface import Deployment
from tests.server.conftest import Inside, build, eventually, listen
from tests.server.fakes import FakeEngine
from tests.server.scheduler.test_dispatcher import MODEL, OTHER, busy, checkpoints, completions, with_another_model

Start = Callable[..., Awaitable[Inside]]


@pytest.fixture
async def start(tmp_path: Any) -> AsyncIterator[Start]:
    """Starts the parts of a server: `await start(executors=2, setting=value)`."""
    started: list[tuple[Inside, asyncio.Task[None]]] = []

    async def start(**changes: Any) -> Inside:
        inside = build(tmp_path / "data", models_dir=with_another_model(tmp_path / "models"), **changes)
        started.append((inside, asyncio.create_task(listen(inside))))
        await inside.dispatcher.start()
        return inside

    yield start
    for inside, listening in started:
        await inside.dispatcher.stop()
        listening.cancel()
        inside.store.close()


async def turns() -> None:
    """Let the loop go on as far as it can without waiting for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def name_of(engine: FakeEngine) -> str:
    return engine.state.device


def names(inside: Inside) -> list[str]:
    return [device.name for device in inside.dispatcher.devices()]


class HeldWrites:
    """From `hold` to `release` the thread that writes the records stands still amid a transaction."""

    def __init__(self, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_on = False
        self._released = threading.Event()
        self.reached = threading.Event()
        monkeypatch.setattr(inside.store._session, "now", self._now)

    def _now(self) -> float:
        if self._is_on and threading.current_thread() is not threading.main_thread():
            self.reached.set()
            self._released.wait(30)
        return time.time()

    def hold(self) -> None:
        self._is_on = True

    def release(self) -> None:
        self._is_on = False
        self._released.set()


# taken


async def test_a_device_that_another_server_uses_is_left_to_it(start: Start) -> None:
    inside = await start(executors=2)
    inside.dispatcher.note_taken({"fake:0", "elsewhere/0"})

    for generation in await inside.enqueue(2):
        await inside.until(generation, Status.SUCCEEDED)

    assert [device.is_taken for device in inside.dispatcher.devices()] == [True, False]
    assert not inside.engines[0].runs

    inside.dispatcher.note_taken({"fake:1"})
    (third,) = await inside.enqueue()
    await inside.until(third, Status.SUCCEEDED)
    assert len(inside.engines[0].runs) == 1


# claims


async def claiming(inside: Inside, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]) -> asyncio.Event:
    """Have the only device claim, which lasts until the event is set, and then ends as `end` says."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    claim = inside.store.attempts.claim

    async def slow(*arguments: Any) -> Generation | None:
        begun.set()
        await go_on.wait()
        end()
        return await claim(*arguments)

    monkeypatch.setattr(inside.store.attempts, "claim", slow)
    inside.dispatcher.wake()
    await begun.wait()
    return go_on


async def test_a_device_that_claims_while_the_records_fail_can_be_removed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = 0

    def fail() -> None:
        nonlocal claims
        claims += 1
        raise RecordsUnavailableError("The database is locked.", "Unlock it.")

    monkeypatch.setattr("server.scheduler.executor.BACKOFF_SECONDS", 0.01)
    inside = await start()
    go_on = await claiming(inside, monkeypatch, fail)

    removing = asyncio.create_task(inside.dispatcher.remove("fake:0"))
    await turns()
    go_on.set()
    async with asyncio.timeout(5):
        await removing

    assert names(inside) == []
    assert inside.engine.is_closed
    assert claims == 1


@pytest.mark.parametrize("is_stopped_twice", [False, True])
async def test_what_a_device_claims_while_it_is_removed_is_given_back(
    start: Start, monkeypatch: pytest.MonkeyPatch, is_stopped_twice: bool
) -> None:
    inside = await start()
    go_on = await claiming(inside, monkeypatch, lambda: None)
    (generation,) = await inside.enqueue()

    ending = [asyncio.create_task(inside.dispatcher.remove("fake:0"))]
    await turns()
    if is_stopped_twice:
        # as when the server stops meanwhile
        ending[0].cancel()
        ending.append(asyncio.create_task(inside.dispatcher.stop()))
        await turns()
    go_on.set()
    await asyncio.gather(*ending, return_exceptions=True)

    record = await inside.read(generation)
    assert (record.status, record.attempt) == (Status.QUEUED, 1)


async def test_a_server_that_stops_waits_for_a_device_whose_removal_was_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = await start()
    go_on = await claiming(inside, monkeypatch, lambda: None)
    (generation,) = await inside.enqueue()
    removing = asyncio.create_task(inside.dispatcher.remove("fake:0"))
    await turns()
    removing.cancel()
    await asyncio.wait({removing})

    stopping = asyncio.create_task(inside.dispatcher.stop())
    await turns()
    assert not stopping.done()
    go_on.set()
    await stopping

    assert (await inside.read(generation)).status is Status.QUEUED
    assert inside.engine.is_closed


async def test_a_suspension_gets_over_a_device_that_is_removed_meanwhile(start: Start) -> None:
    inside = await start()
    running = await busy(inside)
    is_asked, go_on = asyncio.Event(), asyncio.Event()

    async def suspend_slowly(*_: object) -> None:
        is_asked.set()
        await go_on.wait()

    inside.engine.suspend = suspend_slowly  # type: ignore[method-assign,assignment]
    suspending = asyncio.create_task(inside.dispatcher.suspend(30))
    await is_asked.wait()
    await inside.dispatcher.remove("fake:0")
    go_on.set()
    async with asyncio.timeout(5):
        await suspending

    assert (await inside.read(running)).status is Status.QUEUED


# results


def finish(engine: FakeEngine, job: Run) -> Done:
    return engine.finish(job)


def fail(_engine: FakeEngine, _job: Run) -> Done:
    raise GenerationFailedError("Not numbers.")


def suspend(_engine: FakeEngine, _job: Run) -> Done:
    raise RunSuspendedError("suspended")


def die(engine: FakeEngine, job: Run) -> Done:
    return engine.die(job)


async def ending(inside: Inside, how: Callable[[FakeEngine, Run], Done], hold: Callable[[], None]) -> Any:
    """A generation that is about to end on some device: returns it, the device's engine, and the event that ends it."""
    word = asyncio.Event()

    def behaviour(engine: FakeEngine) -> Callable[[Run], object]:
        async def run(job: Run) -> Done:
            engine.save(job, 0.4)
            await word.wait()
            hold()
            return how(engine, job)

        return run

    for engine in inside.engines:
        engine.script.append(behaviour(engine))
    (generation,) = await inside.enqueue()
    await eventually(lambda: any(engine.runs for engine in inside.engines))
    (engine,) = [engine for engine in inside.engines if engine.runs]
    for other in inside.engines:
        other.script.clear()
    # until its claim has been renewed, the records are written now and then
    async with asyncio.timeout(10):
        while (await inside.read(generation)).progress != 0.4:  # noqa: ASYNC110 - a record has no event
            await asyncio.sleep(0.005)
    return generation, engine, word


@pytest.mark.parametrize("how", [finish, fail, suspend, die])
async def test_a_result_that_is_being_written_when_its_device_is_removed_is_told_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, how: Callable[[FakeEngine, Run], Done]
) -> None:
    inside = await start(executors=2)
    writes = HeldWrites(inside, monkeypatch)
    generation, engine, word = await ending(inside, how, writes.hold)
    word.set()
    await eventually(writes.reached.is_set)

    removing = asyncio.create_task(inside.dispatcher.remove(name_of(engine)))
    await turns()
    await asyncio.sleep(0.05)
    writes.release()
    await removing

    status = Status.FAILED if how is fail else Status.SUCCEEDED
    # what is returned to the queue is taken by the other device, which was idle
    async with asyncio.timeout(10):
        assert (await inside.until(generation)).status is status
    await eventually(lambda: completions(inside))
    assert completions(inside) == [(generation.id, status)]
    assert checkpoints(inside) == set()
    assert sum(len(each.runs) for each in inside.engines) == (2 if how in (suspend, die) else 1)


@pytest.mark.parametrize("how", [finish, fail])
async def test_a_result_that_is_being_told_when_its_device_is_removed_is_told_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, how: Callable[[FakeEngine, Run], Done]
) -> None:
    inside = await start()
    discard, is_telling, go_on = inside.files.checkpoints.discard, asyncio.Event(), asyncio.Event()

    async def slow(generation: Generation) -> None:
        is_telling.set()
        await go_on.wait()
        await discard(generation)

    monkeypatch.setattr(inside.files.checkpoints, "discard", slow)
    generation, _, word = await ending(inside, how, lambda: None)
    word.set()
    await is_telling.wait()

    removing = asyncio.create_task(inside.dispatcher.remove("fake:0"))
    await turns()
    go_on.set()
    await removing

    await turns()
    assert [id_ for id_, _ in completions(inside)] == [generation.id]
    assert checkpoints(inside) == set()


async def test_what_is_given_back_for_lack_of_records_when_its_device_is_removed_is_taken_by_another(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends without a result, since its claim could not be renewed."""
    monkeypatch.setattr("server.scheduler.attempt.BACKOFF_SECONDS", 0.01)
    inside = await start(executors=2)
    writes = HeldWrites(inside, monkeypatch)
    renew = inside.store.attempts.renew

    async def refuse(*_: object) -> None:
        monkeypatch.setattr(inside.store.attempts, "renew", renew)
        writes.hold()
        raise RecordsUnavailableError("The database is locked.", "Unlock it.")

    monkeypatch.setattr(inside.store.attempts, "renew", refuse)
    (generation,) = await inside.enqueue()
    await eventually(writes.reached.is_set)
    (engine,) = [engine for engine in inside.engines if engine.loads]

    removing = asyncio.create_task(inside.dispatcher.remove(name_of(engine)))
    await asyncio.sleep(0.05)
    writes.release()
    await removing

    async with asyncio.timeout(10):
        assert (await inside.until(generation)).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    "error", [OSError("the disk is gone"), RecordsUnavailableError("no records", "later")], ids=type
)
async def test_an_error_of_a_run_that_is_ended_with_its_device_is_no_fault_of_the_generation(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("server.scheduler.attempt.BACKOFF_SECONDS", 60)
    inside = await start()

    async def end_badly(_job: Run) -> Done:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    inside.engine.script.append(end_badly)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    async with asyncio.timeout(5):
        await inside.dispatcher.remove("fake:0")

    assert (await inside.read(generation)).status is Status.QUEUED


async def test_a_cancellation_reaches_all_devices_although_one_is_removed_meanwhile(start: Start) -> None:
    inside = await start(executors=2)
    for engine in inside.engines:
        engine.script.append(engine.until_cancelled)
    generations = await inside.enqueue(2)
    await eventually(lambda: all(engine.runs for engine in inside.engines))
    first, second = inside.dispatcher.executors
    cancel = first.cancel

    async def cancel_and_lose(generation: Generation) -> None:
        await cancel(generation)
        await inside.dispatcher.remove("fake:0")

    first.cancel = cancel_and_lose  # type: ignore[method-assign]
    (there,) = [each for each in generations if each.id == inside.engines[1].runs[0].generation_id]
    await inside.service.cancel("", there.id)

    assert inside.engines[1].cancels == [(there.id, 1)]
    await eventually(lambda: second.device.running is None)


# requests to load


def add(inside: Inside, name: str) -> FakeEngine:
    engine = FakeEngine(inside.folders.videos.folder, name)
    inside.engines.append(engine)
    inside.dispatcher.add(engine)
    return engine


async def deployed(inside: Inside, *models: str) -> None:
    await eventually(lambda: all(inside.dispatcher.deployment(model) is Deployment.ACTIVE for model in models))


async def test_each_device_that_joins_loads_one_of_the_models_that_wait(start: Start) -> None:
    inside = await start(executors=0)
    for model in (MODEL, OTHER):
        inside.dispatcher.activate(inside.service.entry(model))

    engines = [add(inside, "late:0"), add(inside, "late:1")]

    await deployed(inside, MODEL, OTHER)
    assert [engine.loads for engine in engines] == [[MODEL], [OTHER]]


async def test_a_model_that_waits_for_a_device_and_is_loaded_elsewhere_meanwhile_is_loaded_once(start: Start) -> None:
    inside = await start(executors=0)
    for model in (MODEL, OTHER):
        inside.dispatcher.activate(inside.service.entry(model))
    first = add(inside, "late:0")
    await deployed(inside, MODEL)

    inside.dispatcher.activate(inside.service.entry(OTHER))
    await deployed(inside, OTHER)
    second = add(inside, "late:1")
    await turns()

    assert (first.loads, second.loads) == ([MODEL, OTHER], [])


@pytest.mark.parametrize("is_alone", [False, True])
async def test_a_model_that_a_removed_device_was_to_load_is_loaded_on_another(start: Start, is_alone: bool) -> None:
    inside = await start(executors=1)
    lost = inside.engine
    lost.loading.clear()
    for model in (MODEL, OTHER):
        inside.dispatcher.activate(inside.service.entry(model))
    # one is being loaded, the other one waits
    await eventually(lambda: lost.loads)
    others = [] if is_alone else [add(inside, "late:0"), add(inside, "late:1")]

    await inside.dispatcher.remove("fake:0")
    if is_alone:
        others = [add(inside, "late:0"), add(inside, "late:1")]

    await deployed(inside, MODEL, OTHER)
    assert [engine.loads for engine in others] == [[MODEL], [OTHER]]


async def test_a_model_that_a_removed_device_was_to_unload_is_not_loaded_elsewhere(start: Start) -> None:
    inside = await start(executors=1)
    inside.engine.loading.clear()
    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: inside.engine.loads)
    inside.dispatcher.deactivate(inside.service.entry(MODEL))
    other = add(inside, "late:0")

    await inside.dispatcher.remove("fake:0")
    await turns()

    assert inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE
    assert other.loads == []


async def test_a_device_that_is_being_removed_is_asked_for_nothing(start: Start) -> None:
    inside = await start(executors=1)
    close, go_on = inside.engine.close, asyncio.Event()

    async def close_slowly() -> None:
        await go_on.wait()
        await close()

    inside.engine.close = close_slowly  # type: ignore[method-assign]
    removing = asyncio.create_task(inside.dispatcher.remove("fake:0"))
    await turns()
    inside.dispatcher.activate(inside.service.entry(MODEL))
    go_on.set()
    await removing

    assert inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE
    add(inside, "late:0")
    await deployed(inside, MODEL)
