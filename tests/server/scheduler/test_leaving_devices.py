"""Devices that are removed while the server runs: what they held, and what they were asked to do, is not lost."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation, Status
from server.engine.interface import DeviceTakenError, GenerationFailedError, RunSuspendedError, WorkerDiedError
from server.engine.protocol import Done, Run
from server.scheduler.interface import Deployment, Drain
from tests.server.conftest import Inside, eventually
from tests.server.fakes import FakeEngine
from tests.server.scheduler.conftest import Start, turns
from tests.server.scheduler.test_dispatcher import MODEL, OTHER, busy, checkpoints, completions


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
    inside.dispatcher.note_held({"fake:0", "elsewhere/0"})

    for generation in await inside.enqueue(2):
        await inside.until(generation, Status.SUCCEEDED)

    assert [device.is_taken for device in inside.dispatcher.devices()] == [True, False]
    assert not inside.engines[0].runs

    inside.dispatcher.note_held({"fake:1"})
    (third,) = await inside.enqueue()
    await inside.until(third, Status.SUCCEEDED)
    assert len(inside.engines[0].runs) == 1


@pytest.mark.parametrize("is_asked_to_load", [False, True])
async def test_a_device_that_another_server_took_first_is_no_failing_one(start: Start, is_asked_to_load: bool) -> None:
    inside = await start()
    inside.engine.load_errors.append(DeviceTakenError("Another server uses device 0 of pc."))

    if is_asked_to_load:
        inside.dispatcher.activate(inside.service.entry(MODEL))
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.dispatcher.devices()[0].is_taken)

    (device,) = inside.dispatcher.devices()
    assert (device.health, device.failures, device.retry_in) == ("healthy", 0, None)
    assert len(inside.engine.loads) == 1
    inside.dispatcher.note_held({"fake:0"})
    await turns()
    assert len(inside.engine.loads) == 1
    inside.dispatcher.note_held(set())
    await inside.until(generation, Status.SUCCEEDED)


async def test_a_device_whose_own_worker_died_is_not_taken_for_anothers(start: Start) -> None:
    inside = await start()

    def die(job: Run) -> Done:
        # what is known of the cluster is some seconds old
        inside.dispatcher.note_held({"fake:0"})
        raise WorkerDiedError("it was killed by SIGKILL")

    inside.engine.script.append(die)
    (generation,) = await inside.enqueue()
    await inside.until(generation, Status.SUCCEEDED)


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
    # they go after the event: where files are kept may not answer for a minute
    await eventually(lambda: checkpoints(inside) == set())
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


# drained


def drain_of(inside: Inside, name: str) -> Drain | None:
    (device,) = [device for device in inside.dispatcher.devices() if device.name == name]
    return device.drain


async def all_run(inside: Inside) -> None:
    """Wait until every device makes a video."""
    await eventually(lambda: all(engine.runs for engine in inside.engines))


async def test_a_drained_device_saves_its_generation_which_another_one_goes_on_with(start: Start) -> None:
    inside = await start(executors=2)
    first, second = inside.engines
    first.script, second.script = [first.until_suspended], [second.until_cancelled]
    both = {each.id: each for each in await inside.enqueue(2)}
    await all_run(inside)
    saved, beside = (both[engine.runs[0].generation_id] for engine in inside.engines)

    await inside.dispatcher.drain("fake:0", 30)

    waiting = await inside.read(saved)
    assert (waiting.status, waiting.progress) == (Status.QUEUED, 0.4)
    assert [drain_of(inside, name) for name in ("fake:0", "fake:1")] == [Drain.DRAINED, None]
    assert first.is_closed
    assert not first.cancels
    await inside.service.cancel("", beside.id)
    assert (await inside.until(saved)).status is Status.SUCCEEDED
    assert second.runs[-1].resume_from == first.runs[0].checkpoint
    assert sorted(outcome or "" for outcome in await inside.outcomes()) == ["cancelled", "released", "succeeded"]


async def test_a_device_is_draining_until_its_generation_is_saved(start: Start) -> None:
    inside = await start()
    inside.engine.script = [inside.engine.until_killed]
    await inside.enqueue()
    await all_run(inside)

    draining = asyncio.create_task(inside.dispatcher.drain("fake:0", 30))
    await turns()
    assert drain_of(inside, "fake:0") is Drain.DRAINING
    assert not inside.engine.is_closed
    inside.engine.kill()
    await draining

    assert drain_of(inside, "fake:0") is Drain.DRAINED


async def test_a_drained_device_takes_nothing_until_it_is_there_anew(start: Start) -> None:
    inside = await start()
    await inside.dispatcher.drain("fake:0", 30)
    inside.dispatcher.activate(inside.service.entry(MODEL))

    (waiting,) = await inside.enqueue()
    await turns()
    assert inside.engine.runs == inside.engine.loads == []
    assert inside.dispatcher.next_weights == []
    assert inside.dispatcher.free_in is None
    assert inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE
    await inside.dispatcher.remove("fake:0")
    inside.dispatcher.add(inside.engine)

    assert (await inside.until(waiting)).status is Status.SUCCEEDED
    assert drain_of(inside, "fake:0") is None


async def test_what_does_not_save_itself_in_time_is_given_back_without(start: Start) -> None:
    inside = await start()
    inside.engine.script = [inside.engine.until_killed]
    (stuck,) = await inside.enqueue()
    await all_run(inside)

    await inside.dispatcher.drain("fake:0", 0.01)

    assert (await inside.read(stuck)).status is Status.QUEUED
    assert inside.engine.is_closed
    assert await inside.outcomes() == ["released"]


async def test_the_model_that_a_drained_device_was_to_load_is_loaded_elsewhere(start: Start) -> None:
    inside = await start(executors=2)
    first, second = inside.engines
    first.loading.clear()
    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: first.loads)

    await inside.dispatcher.drain("fake:0", 30)

    await eventually(lambda: second.state.is_ready)
    assert second.loads == [MODEL]


async def test_a_device_that_is_added_as_drained_starts_no_work(start: Start) -> None:
    inside = await start()
    await inside.dispatcher.remove("fake:0")

    inside.dispatcher.add(inside.engine, is_drained=True)
    (waiting,) = await inside.enqueue()
    await turns()

    assert drain_of(inside, "fake:0") is Drain.DRAINED
    assert (await inside.read(waiting)).status is Status.QUEUED


async def test_a_server_that_stops_while_it_drains_a_device_saves_the_others(start: Start) -> None:
    inside = await start(executors=2)
    for engine in inside.engines:
        engine.script = [engine.until_suspended]
    both = await inside.enqueue(2)
    await all_run(inside)

    draining = asyncio.create_task(inside.dispatcher.drain("fake:0", 30))
    await inside.dispatcher.suspend(30)
    await draining

    assert [(await inside.read(each)).progress for each in both] == [0.4, 0.4]
    assert [drain_of(inside, name) for name in ("fake:0", "fake:1")] == [Drain.DRAINED, None]
