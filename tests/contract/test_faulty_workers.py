"""Workers that fail in every way, in processes of their own: each is detected, and the next generation is made."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.request import VideoParams
from server.core.circuit_breaker import Health, Tolerance
from server.core.generation import Outcome, Status
from server.engine.interface import (
    DeviceUnavailableError,
    GenerationFailedError,
    WorkerDiedError,
    WorkerOptions,
    WorkerStartError,
)
from server.engine.protocol import Done
from server.engine.subprocess.engine import SubprocessEngine
from server.engine.watchdog import Patience
from server.scheduler.device import Device
from tests.contract.test_engine import ENTRY, PARAMS, job, make
from tests.server.conftest import Inside, build, eventually
from tests.support.faulty_worker import EXCESS_REPORTS, FakeModel

PATIENCE = Patience(floor=2, first=2, load=3)
SILENCE = 60


@pytest.fixture(autouse=True)
def _files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAULTY_SENT", str(tmp_path / "sent"))
    monkeypatch.setenv("FAULTY_GO", str(tmp_path / "go"))


def make_engine(folder: Path, silence: float = SILENCE, patience: Patience = PATIENCE) -> SubprocessEngine:
    folder.mkdir(exist_ok=True)
    folders = dict.fromkeys(("artifacts", "checkpoints", "previews", "inputs", "cache"), str(folder))
    options = WorkerOptions(device="cpu", **folders, temporary=str(folder / "tmp"), demo=True)
    limits = {"cancel_grace": 10, "silence": silence}
    return SubprocessEngine("cpu", options, **limits, patience=patience, worker="tests.support.faulty_worker")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[SubprocessEngine]:
    engine = make_engine(tmp_path / "videos")
    yield engine
    await engine.close()


async def run(engine: SubprocessEngine, prompt: str) -> None:
    await engine.load(ENTRY)
    params: VideoParams = replace(PARAMS, prompt=prompt)
    await make(engine, job(params), lambda _: None)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("hang at denoise", "it made no progress for 2 seconds while denoising and was killed"),
        ("flood at denoise", "it made no progress for 2 seconds while denoising and was killed"),
        ("exit within a message at denoise", "it exited with status 3"),
        ("garbage at denoise", "it sent an invalid message and was killed"),
        ("long line at denoise", "it sent an invalid message and was killed"),
        ("break at denoise", "The device cpu fails: it fell off the bus."),
        ("hang at file", "it made no progress for 2 seconds while finishing the file and was killed"),
        ("exit at file", "it exited with status 3"),
    ],
)
async def test_a_run_that_goes_wrong_ends_its_worker_and_says_how(
    engine: SubprocessEngine, prompt: str, sentence: str
) -> None:
    await run(engine, "well")
    pid = engine.state.pid

    with pytest.raises(WorkerDiedError) as died:
        await run(engine, prompt)

    assert str(died.value) == sentence
    await run(engine, "well")
    assert engine.state.pid != pid


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("hang at load", "it made no progress for 3 seconds while loading and was killed"),
        ("exit at load", "it exited with status 3"),
    ],
)
async def test_a_load_that_goes_wrong_ends_its_worker_and_says_how(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch, how: str, sentence: str
) -> None:
    monkeypatch.setenv("FAULTY_LOAD", how)
    with pytest.raises(WorkerDiedError) as died:
        await engine.load(ENTRY)

    assert str(died.value) == sentence
    assert engine.state.model_id is None
    monkeypatch.delenv("FAULTY_LOAD")
    await run(engine, "well")


BUSY = "Other programs hold the memory of cpu: 1.0 GiB of 8.0 GiB is free."


@pytest.mark.parametrize(
    ("how", "sentence"),
    [("busy at load", BUSY), ("no files at load", "A worker cannot go on: Too many open files.")],
)
async def test_a_machine_that_has_no_room_now_is_told_apart_and_its_worker_ends(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch, how: str, sentence: str
) -> None:
    await run(engine, "well")
    await engine.unload()
    monkeypatch.setenv("FAULTY_LOAD", how)
    await engine.close()
    for starts in (2, 3):
        with pytest.raises(DeviceUnavailableError) as unavailable:
            await engine.load(ENTRY)
        assert str(unavailable.value) == sentence
        assert (engine.state.model_id, engine.state.pid, engine.state.error) == (None, None, sentence)
        assert engine._starts == starts

    monkeypatch.delenv("FAULTY_LOAD")
    await run(engine, "well")
    assert engine.state.error is None


async def test_memory_that_others_take_during_a_run_ends_it_and_its_worker(engine: SubprocessEngine) -> None:
    with pytest.raises(DeviceUnavailableError, match="Other programs hold"):
        await run(engine, "busy at denoise")

    assert (engine.state.model_id, engine.state.pid) == (None, None)
    await run(engine, "well")


async def test_a_worker_that_ends_before_it_greets_was_not_started(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTY_LOAD", "exit at start")
    with pytest.raises(WorkerStartError, match=r"^No worker could be started: it exited with status 3\.$"):
        await engine.load(ENTRY)

    monkeypatch.setenv("FAULTY_LOAD", "exit at load")
    with pytest.raises(WorkerDiedError):
        await engine.load(ENTRY)


async def hanging(engine: SubprocessEngine) -> "asyncio.Task[Done]":
    """A run that has begun and goes no further; its worker goes on sending heartbeats."""
    await engine.load(ENTRY)
    begun = asyncio.Event()
    params = replace(PARAMS, prompt="hang at denoise")
    running = asyncio.create_task(make(engine, job(params), lambda _: begun.set()))
    await begun.wait()
    return running


async def test_a_killed_worker_is_reported_and_the_next_load_starts_another(engine: SubprocessEngine) -> None:
    running = await hanging(engine)
    first = engine.state.pid
    assert first is not None

    os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="killed by SIGKILL"):
        await running

    assert engine.state.model_id is None
    with pytest.raises(WorkerDiedError, match="ended before the run began"):
        await engine.run(job(PARAMS, "h"), lambda _: None)
    await run(engine, "well")
    assert engine.state.pid != first


async def test_a_silent_worker_is_killed(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "videos", silence=4, patience=Patience())
    running = await hanging(engine)
    assert engine.state.pid is not None

    os.kill(engine.state.pid, signal.SIGSTOP)

    with pytest.raises(WorkerDiedError, match="sent nothing for 4 seconds"):
        await running
    await engine.close()


async def test_a_worker_that_does_not_stop_when_cancelled_is_killed(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_cancel_grace", 0.5)
    running = await hanging(engine)

    await engine.cancel("g", 1)

    with pytest.raises(WorkerDiedError, match="killed by SIGKILL"):
        await running


async def test_closing_ends_the_worker_at_once_even_amid_a_run(engine: SubprocessEngine) -> None:
    running = await hanging(engine)
    pid = engine.state.pid
    assert pid is not None

    await engine.close()

    with pytest.raises(WorkerDiedError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_generation_without_numbers_fails_and_its_worker_stays(engine: SubprocessEngine) -> None:
    await run(engine, "well")
    pid = engine.state.pid

    with pytest.raises(GenerationFailedError, match="Not numbers"):
        await run(engine, "nan at decode")

    await run(engine, "well")
    assert engine.state.pid == pid


async def test_a_worker_that_sends_while_nothing_reads_has_to_wait(engine: SubprocessEngine, tmp_path: Path) -> None:
    def sent() -> int:
        return int((tmp_path / "sent").read_text() or 0) if (tmp_path / "sent").exists() else 0

    await run(engine, "flood afterwards at rename")
    pid = engine.state.pid
    async with asyncio.timeout(60):
        before = 0
        while before == 0 or sent() > before:
            before = sent()
            await asyncio.sleep(0.5)

    assert sent() < EXCESS_REPORTS / 2
    await run(engine, "well")
    assert engine.state.pid == pid


async def test_a_killed_process_that_does_not_end_is_not_followed_by_another(
    engine: SubprocessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(engine, "well")
    pid = engine.state.pid
    assert pid is not None
    with monkeypatch.context() as stuck:
        stuck.setattr("server.engine.subprocess.connection._END_SECONDS", 0.2)
        # as with a driver that never returns: the signal is sent without effect
        stuck.setattr("asyncio.subprocess.Process.kill", lambda _process: None)
        with pytest.raises(WorkerDiedError):
            await run(engine, "hang at denoise")
        for _ in range(2):
            with pytest.raises(WorkerDiedError, match="does not end"):
                await engine.load(ENTRY)
        os.kill(pid, 0)

    await run(engine, "well")
    assert engine.state.pid != pid


# such generations in a queue


@pytest.fixture
async def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inside]:
    """The parts of a server, with a real engine."""
    monkeypatch.setattr("server.core.circuit_breaker._LONGEST_BACKOFF", 0.05)
    inside = build(tmp_path / "data")
    (executor,) = inside.dispatcher.executors
    executor.device.engine = make_engine(inside.folders.videos.folder)
    await inside.dispatcher.start()
    yield inside
    await inside.dispatcher.stop()
    inside.store.close()


async def test_each_poisoned_generation_fails_alone(inside: Inside) -> None:
    poison = [
        "exit at prompt",
        "exit at denoise",
        "exit at decode",
        "hang at decode",
    ]
    queued = [(*await inside.enqueue(prompt=how), *await inside.enqueue(prompt="well")) for how in poison]

    for how, (poisoned, well) in zip(poison, queued, strict=True):
        failed = await inside.until(poisoned)
        assert failed.status is Status.FAILED, how
        assert failed.error_message is not None
        assert "died 2 times in a row on this generation" in failed.error_message
        assert (await inside.until(well)).status is Status.SUCCEEDED, how
    (executor,) = inside.dispatcher.executors
    assert executor.device.circuit.health is Health.HEALTHY
    assert executor.device.circuit.failures == 2 * len(poison)
    assert await inside.outcomes() == [Outcome.WORKER_DIED, Outcome.WORKER_DIED, Outcome.SUCCEEDED] * len(poison)


async def test_a_file_that_is_whole_is_kept_though_its_worker_never_says_so(inside: Inside) -> None:
    cut, well = *await inside.enqueue(prompt="exit at rename"), *await inside.enqueue(prompt="well")

    assert [(await inside.until(each)).status for each in (cut, well)] == [Status.SUCCEEDED] * 2
    # the second may have begun before the worker of the first ended
    assert [each for each in await inside.outcomes() if each != Outcome.WORKER_DIED] == [Outcome.SUCCEEDED] * 2
    assert (await inside.read(cut)).attempt == 1


async def test_a_load_that_ends_its_worker_fails_the_generation_and_the_next_is_made(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTY_LOAD", "exit at load")
    (poisoned,) = await inside.enqueue(prompt="well")
    assert (await inside.until(poisoned)).status is Status.FAILED

    monkeypatch.delenv("FAULTY_LOAD")
    (well,) = await inside.enqueue(prompt="well")
    assert (await inside.until(well)).status is Status.SUCCEEDED


@pytest.mark.parametrize("how", ["busy at load", "no files at load", "exit at start"])
async def test_a_machine_that_has_no_room_now_keeps_the_queue(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (executor,) = inside.dispatcher.executors
    circuit = executor.device.circuit
    monkeypatch.setenv("FAULTY_LOAD", how)
    generations = await inside.enqueue(2, prompt="well")
    await eventually(lambda: circuit.failures == 2)
    for generation in generations:
        waiting = await inside.until(generation, Status.QUEUED)
        assert waiting.worker_deaths == 0
    assert circuit.health is Health.UNHEALTHY

    monkeypatch.delenv("FAULTY_LOAD")
    for generation in generations:
        assert (await inside.until(generation)).status is Status.SUCCEEDED
    assert circuit.health is Health.HEALTHY
    assert set(await inside.outcomes()) == {Outcome.RELEASED, Outcome.SUCCEEDED}


async def test_memory_that_others_take_while_a_file_is_finished_costs_nothing(
    engine: SubprocessEngine, tmp_path: Path
) -> None:
    finishing = await rendered(engine, tmp_path)
    pid = engine.state.pid

    with pytest.raises(DeviceUnavailableError):
        await run(engine, "busy at denoise")
    assert (engine.state.model_id, engine.state.pid) == (None, pid)
    (tmp_path / "go").touch()

    assert (await finishing).artifact == "a.1.mp4"
    await run(engine, "well")


async def rendered(engine: SubprocessEngine, tmp_path: Path) -> "asyncio.Task[Done]":
    """A rendered generation; its file is finished once the file `go` exists."""
    await engine.load(ENTRY)
    waits = replace(PARAMS, prompt="wait at file")
    finish = await engine.run(job(waits, "a"), lambda _: None)
    finishing = asyncio.ensure_future(finish())
    await asyncio.sleep(0.1)
    assert not finishing.done()
    assert not (tmp_path / "videos" / "a.1.mp4").exists()
    return finishing


async def test_another_run_goes_on_before_the_file_is_finished(engine: SubprocessEngine, tmp_path: Path) -> None:
    finishing = await rendered(engine, tmp_path)

    second = await engine.run(job(PARAMS, "b"), lambda _: None)
    assert not finishing.done()
    (tmp_path / "go").touch()

    assert [(await finishing).artifact, (await second()).artifact] == ["a.1.mp4", "b.1.mp4"]
    assert {path.name for path in (tmp_path / "videos").glob("*.mp4")} == {"a.1.mp4", "b.1.mp4"}


async def test_a_worker_that_dies_takes_the_run_and_the_file(engine: SubprocessEngine, tmp_path: Path) -> None:
    finishing = await rendered(engine, tmp_path)

    for died in (run(engine, "exit at denoise"), finishing):
        with pytest.raises(WorkerDiedError, match="it exited with status 3"):
            await died
    await run(engine, "well")


async def test_why_blocks_run_uncompiled_is_known_until_the_model_is_unloaded(engine: SubprocessEngine) -> None:
    device = Device(engine, Tolerance(5, 60))
    assert device.status().compile_error is None

    await engine.load(ENTRY)
    # the next heartbeat tells it
    await eventually(lambda: engine.state.compile_error == FakeModel.compile_error)
    assert device.status().compile_error == "InductorError: no gcc"

    await engine.unload()
    await eventually(lambda: engine.state.compile_error is None)
