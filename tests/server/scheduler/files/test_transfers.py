"""Files of runs where an object store keeps them: what is there and when, and what a store that fails costs."""

import asyncio
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.request import VideoParams
from server.core.errors import UnavailableError
from server.core.generation import Status
from server.engine.protocol import Done, Run
from server.scheduler.files import transfers
from server.scheduler.files.transfers import TransferringEngine
from server.storage.files.inputs import input_key
from server.storage.files.object_store.bucket import ObjectStoreError
from server.storage.files.object_store.storage import ObjectStorage
from tests.server.conftest import Inside, build, eventually

DIGEST = "0" * 64


@pytest.fixture
async def inside(tmp_path: Path, bucket_url: str) -> AsyncIterator[Inside]:
    """The parts with their files in an object store, running."""
    inside = build(tmp_path / "data", files_url=bucket_url)
    await inside.dispatcher.start()
    yield inside
    await inside.dispatcher.stop()
    inside.store.close()


def elsewhere(inside: Inside, bucket_url: str) -> Inside:
    """The parts on another data directory, with the same records and the same store."""
    folder = inside.folder.with_name("elsewhere")
    folder.mkdir()
    with (
        closing(sqlite3.connect(inside.folder / "paddock.db")) as records,
        closing(sqlite3.connect(folder / "paddock.db")) as copy,
    ):
        records.backup(copy)
    return build(folder, files_url=bucket_url)


def local(inside: Inside) -> set[str]:
    """The files in the folders of the workers."""
    folders = inside.folders
    return {
        path.name
        for each in (folders.videos, folders.checkpoints, folders.previews, folders.inputs)
        for path in each.folder.iterdir()
    }


async def stored(inside: Inside, kind: str) -> dict[str, bytes]:
    """What the store has of a kind."""
    storage = getattr(inside.files, kind).storage
    return {file.key: b"".join([chunk async for chunk in storage.open(file.key)]) for file in await storage.list()}


class Outage:
    """Has the store refuse files of some kinds, for as long as these are in `of`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: set[str] = set()
        self.refused = 0
        put = ObjectStorage.put

        async def refuse(storage: ObjectStorage, key: str, content: AsyncIterable[bytes]) -> None:
            if storage.folder in self.of:
                self.refused += 1
                raise ObjectStoreError("the object store failed or cannot be reached")
            await put(storage, key, content)

        monkeypatch.setattr(ObjectStorage, "put", refuse)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


async def test_a_finished_video_is_in_the_store_and_no_copy_stays(inside: Inside) -> None:
    (generation,) = await inside.enqueue()
    done = await inside.until(generation)

    assert done.status is Status.SUCCEEDED
    assert await stored(inside, "videos") == {f"{generation.id}.1.mp4": b"video"}
    assert await stored(inside, "checkpoints") == await stored(inside, "previews") == {}
    await eventually(lambda: not local(inside))
    assert not (inside.folder / "videos").exists()


async def test_a_preview_is_told_of_when_every_server_can_show_it(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.dispatcher.devices()[0].is_busy)

    def is_told() -> bool:
        live = inside.dispatcher.live(held)
        return live is not None and live.preview == 1

    held = await inside.until(generation, Status.PROCESSING)
    await eventually(is_told)
    assert await inside.files.previews.preview(generation.id, 1) == b"picture"
    await inside.service.cancel("", generation.id)
    await eventually(lambda: not inside.dispatcher._held_ids())
    assert local(inside) == set()
    assert await stored(inside, "previews") == {}


async def test_another_server_goes_on_from_the_checkpoint(inside: Inside, bucket_url: str) -> None:
    inside.engine.script.append(inside.engine.until_suspended)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    await inside.dispatcher.suspend(10)
    assert (await inside.read(generation)).progress == 0.4
    assert set(await stored(inside, "checkpoints")) == {f"{generation.id}.1.ckpt"}

    other = elsewhere(inside, bucket_url)
    there: list[bytes] = []

    def look(run: Run) -> Done:
        assert run.resume_from == f"{generation.id}.1.ckpt"
        there.append((other.folders.checkpoints.folder / run.resume_from).read_bytes())
        return other.engine.finish(run)

    other.engine.script.append(look)
    await other.dispatcher.start()

    assert (await other.until(generation)).artifact == f"{generation.id}.2.mp4"
    assert there == [b"half"]
    await eventually(lambda: not other.dispatcher._held_ids())
    assert local(other) == set()
    assert await stored(other, "checkpoints") == {}
    await other.dispatcher.stop()
    other.store.close()


async def test_a_checkpoint_counts_only_once_it_is_stored(inside: Inside, outage: Outage) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    run = inside.engine.runs[0]
    inside.engine.save(run, 0.3)

    async def recorded(progress: float) -> None:
        async with asyncio.timeout(30):
            while (await inside.read(generation)).progress != progress:  # noqa: ASYNC110 - a record has no event
                await asyncio.sleep(0.005)

    await recorded(0.3)
    outage.of = {"checkpoints"}
    inside.engine.save(run, 0.5)
    await eventually(lambda: outage.refused)
    await asyncio.sleep(0.2)
    assert (await inside.read(generation)).progress == 0.3
    assert await stored(inside, "checkpoints") == {run.checkpoint: b"half"}

    outage.of = set()
    inside.engine.save(run, 0.6)
    await recorded(0.6)
    await inside.service.cancel("", generation.id)
    await eventually(lambda: not inside.dispatcher._held_ids())
    assert await stored(inside, "checkpoints") == {}
    assert local(inside) == set()


async def test_a_checkpoint_that_was_not_stored_is_gone_on_from_where_it_is(inside: Inside, outage: Outage) -> None:
    def save_and_die(run: Run) -> Done:
        inside.engine.save(run, 0.5)
        return inside.engine.die(run)

    outage.of = {"checkpoints"}
    inside.engine.script.append(save_and_die)
    (generation,) = await inside.enqueue()
    await inside.until(generation)

    assert [run.resume_from for run in inside.engine.runs] == [None, f"{generation.id}.1.ckpt"]
    assert outage.refused == 1


async def test_a_video_that_is_stored_late_is_stored(
    inside: Inside, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_MAX_PAUSE", 0.01)
    outage.of = {"videos"}
    (generation,) = await inside.enqueue()
    await eventually(lambda: outage.refused)
    assert (await inside.read(generation)).status is Status.PROCESSING

    outage.of = set()
    done = await inside.until(generation)
    assert (done.status, done.attempt) == (Status.SUCCEEDED, 1)
    assert await stored(inside, "videos") == {f"{generation.id}.1.mp4": b"video"}


async def test_a_video_that_cannot_be_stored_costs_no_generation(inside: Inside, outage: Outage) -> None:
    device = inside.dispatcher.executors[0].device
    assert isinstance(device.engine, TransferringEngine)
    device.engine._store_seconds = 0.0
    outage.of = {"videos"}
    (generation,) = await inside.enqueue()
    await eventually(lambda: outage.refused)

    waiting = await inside.until(generation, Status.QUEUED)
    assert waiting.error_message is None
    assert "could not be stored: the object store failed" in (inside.dispatcher.devices()[0].error or "")
    outage.of = set()
    # once the device is tried again
    device.circuit.succeeded()
    inside.dispatcher.wake()
    done = await inside.until(generation)
    assert (done.status, done.attempt, done.worker_deaths) == (Status.SUCCEEDED, 2, 0)
    assert set(await stored(inside, "videos")) == {f"{generation.id}.2.mp4"}


async def test_a_video_that_is_being_stored_when_its_device_is_removed_is_stored_once_more_and_kept(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put, is_sending = ObjectStorage.put, asyncio.Event()

    async def hang_first(storage: ObjectStorage, key: str, content: AsyncIterable[bytes]) -> None:
        if storage.folder == "videos" and not is_sending.is_set():
            is_sending.set()
            try:
                await asyncio.Event().wait()
            finally:
                # in place of the cancellation
                raise ObjectStoreError("the object store failed or cannot be reached")
        await put(storage, key, content)

    monkeypatch.setattr(ObjectStorage, "put", hang_first)
    (generation,) = await inside.enqueue()
    await is_sending.wait()
    await inside.dispatcher.remove("fake:0")

    assert (await inside.read(generation)).status is Status.SUCCEEDED
    assert set(await stored(inside, "videos")) == {f"{generation.id}.1.mp4"}
    assert "trying again" not in caplog.text


async def test_a_video_whose_worker_died_after_it_was_finished_is_stored_and_kept(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.finish_and_die)
    (generation,) = await inside.enqueue()

    done = await inside.until(generation)

    assert (done.status, done.attempt) == (Status.SUCCEEDED, 1)
    assert await stored(inside, "videos") == {f"{generation.id}.1.mp4": b"video"}
    assert f"{generation.id}.1.mp4" not in local(inside)


async def test_a_video_that_was_finished_before_the_server_was_killed_is_stored_at_the_next_start(
    inside: Inside, bucket_url: str
) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    # a killed server leaves its records and its folders as they are
    again = elsewhere(inside, bucket_url)
    (again.folders.videos.folder / f"{generation.id}.1.mp4").write_bytes(b"video")
    await again.dispatcher.start()

    done = await again.read(generation)
    assert (done.status, done.artifact) == (Status.SUCCEEDED, f"{generation.id}.1.mp4")
    assert await stored(again, "videos") == {f"{generation.id}.1.mp4": b"video"}
    assert local(again) == set()
    await again.dispatcher.stop()
    again.store.close()
    await inside.service.cancel("", generation.id)


async def content() -> AsyncIterator[bytes]:
    yield b"pixels"


def run_of(**changes: Any) -> Run:
    params = VideoParams("an ox", " ", 64, 64, 5, 2, 5.0, 7)
    keys = {"artifact": "g.2.mp4", "checkpoint": "g.2.ckpt", "preview": "g.2.jpg"}
    return Run(generation_id="g", attempt=2, params=params, **{**keys, **changes})


@pytest.fixture
async def around(inside: Inside) -> TransferringEngine:
    """The engine on its own: nothing else sweeps its folders."""
    await inside.dispatcher.maintenance.stop()
    engine = inside.dispatcher.executors[0].device.engine
    assert isinstance(engine, TransferringEngine)
    return engine


async def test_inputs_are_brought_once_and_kept_while_they_are_used(inside: Inside, around: TransferringEngine) -> None:
    key = input_key("", DIGEST)
    await inside.files.inputs.storage.put(key, content())
    scratch = inside.files.scratch
    assert scratch is not None

    def look(run: Run) -> Done:
        assert (inside.folders.inputs.folder / key).read_bytes() == b"pixels"
        return inside.engine.finish(run)

    inside.engine.script += [look, look]
    finish = await around.run(run_of(image=key, last_image=key), lambda _: None)
    # in use until the file is finished, however old it is
    for is_kept in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.storage.files.object_store.scratch.UNUSED_SECONDS", -60.0)
            await scratch.sweep(held={"g"})
        assert (key in local(inside)) == is_kept
        if is_kept:
            await finish()


async def test_an_input_that_is_gone_fails_its_generation_with_a_sentence(around: TransferringEngine) -> None:
    with pytest.raises(transfers.GenerationFailedError, match="input of the request cannot be read any more"):
        await around.run(run_of(image=input_key("", DIGEST)), lambda _: None)


async def test_a_scratch_that_is_gone_costs_no_generation(inside: Inside, around: TransferringEngine) -> None:
    key = input_key("", DIGEST)
    await inside.files.inputs.storage.put(key, content())
    inside.folders.inputs.folder.rmdir()

    with pytest.raises(transfers.DeviceUnavailableError, match="No such file or directory"):
        await around.run(run_of(image=key), lambda _: None)


async def test_inputs_that_cannot_be_read_now_cost_no_generation(
    around: TransferringEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> AsyncIterator[bytes]:
        raise ObjectStoreError("the object store does not answer")
        yield b""

    monkeypatch.setattr(ObjectStorage, "open", refuse)
    with pytest.raises(transfers.DeviceUnavailableError, match="the object store does not answer"):
        await around.run(run_of(image=input_key("", DIGEST)), lambda _: None)


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (lambda engine: engine.cancel("g", 2), transfers.RunCancelledError),
        (lambda engine: engine.suspend("g", 2), transfers.RunSuspendedError),
    ],
)
async def test_a_run_can_be_stopped_while_its_files_are_brought(
    inside: Inside,
    around: TransferringEngine,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[TransferringEngine], Any],
    error: type[Exception],
) -> None:
    begun = asyncio.Event()

    async def endless(*_: Any) -> AsyncIterator[bytes]:
        yield b"x"
        begun.set()
        await asyncio.sleep(1000)

    monkeypatch.setattr(ObjectStorage, "open", endless)
    running = asyncio.create_task(around.run(run_of(image=input_key("", DIGEST)), lambda _: None))
    await begun.wait()
    await around.cancel("g", 1)
    await stop(around)

    with pytest.raises(error):
        async with asyncio.timeout(10):
            await running
    assert inside.engine.runs == []
    assert inside.engine.cancels == [("g", 1)]
    assert local(inside) == set()


@pytest.mark.usefixtures("around")
async def test_old_copies_are_swept_but_not_those_of_what_runs(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = inside.files.scratch
    assert scratch is not None
    folders = inside.folders
    for folder, name in (
        (folders.videos, "held.1.mp4"),
        (folders.videos, "gone.1.mp4"),
        (folders.videos, ".gone.2.mp4.part"),
        (folders.checkpoints, "held.1.ckpt"),
        (folders.checkpoints, "gone.1.ckpt"),
        (folders.previews, "gone.jpg"),
    ):
        (folder.folder / name).write_bytes(b"x")
    await scratch.sweep({"held"})
    assert len(local(inside)) == 6

    monkeypatch.setattr("server.storage.files.object_store.scratch.UNUSED_SECONDS", -60.0)
    await scratch.sweep({"held"})

    assert local(inside) == {"held.1.mp4", "held.1.ckpt"}


async def test_servers_on_the_same_store_leave_each_other_their_previews(
    tmp_path: Path, bucket_url: str, postgres_url: str
) -> None:
    shared = {"files_url": bucket_url, "database_url": postgres_url}
    runs, other = build(tmp_path / "runs", **shared), build(tmp_path / "other", **shared)
    runs.engine.script.append(runs.engine.until_cancelled)
    await runs.dispatcher.start()
    (generation,) = await runs.enqueue()
    await eventually(lambda: runs.engine.runs)

    async def shown() -> set[str]:
        return set(await stored(runs, "previews"))

    async with asyncio.timeout(30):
        while await shown() != {f"{generation.id}.1.jpg"}:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.01)
    (runs.folders.previews.folder / "gone.jpg").write_bytes(b"left")
    assert runs.files.scratch is not None
    await runs.files.scratch.previews.send("gone.jpg")

    await other.dispatcher.maintenance.recover()
    assert await shown() == {f"{generation.id}.1.jpg"}

    await runs.service.cancel("", generation.id)
    await runs.dispatcher.stop()
    runs.store.close()
    other.store.close()


async def test_a_row_stays_while_its_video_cannot_be_removed(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    (generation,) = await inside.enqueue()
    await inside.until(generation)

    async def refuse(*_: Any) -> dict[str, Any]:
        raise ObjectStoreError("the object store does not answer")

    with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="the object store does not answer"):
        patch.setattr(ObjectStorage, "stat", refuse)
        await inside.library.delete("", [generation.id])
    assert (await inside.read(generation)).artifact is not None

    await inside.library.delete("", [generation.id])
    assert await stored(inside, "videos") == {}


async def test_a_device_waits_for_a_store_that_tells_no_checkpoints(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> list[Any]:
        raise ObjectStoreError("the object store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "list", refuse)
        (generation,) = await inside.enqueue()
        await eventually(lambda: "Checkpoints cannot be read" in (inside.dispatcher.devices()[0].error or ""))
        assert inside.engine.runs == []
        assert (await inside.until(generation, Status.QUEUED)).error_message is None
    assert (await inside.until(generation)).status is Status.SUCCEEDED


async def test_a_result_is_told_although_its_checkpoints_cannot_be_removed(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise ObjectStoreError("the object store does not answer")

    monkeypatch.setattr(inside.files.checkpoints, "discard", refuse)
    told: list[Status] = []
    inside.broker.observe(lambda event: told.append(event.generation.status))
    (generation,) = await inside.enqueue()

    assert (await inside.until(generation)).status is Status.SUCCEEDED
    await eventually(lambda: Status.SUCCEEDED in told)


async def test_the_newest_checkpoint_is_resumed_from_wherever_it_is(inside: Inside, around: TransferringEngine) -> None:
    scratch = inside.files.scratch
    assert around.state.device == "fake:0"
    assert scratch is not None
    for key in ("g.2.ckpt", "g.4.ckpt", "g0.9.ckpt"):
        (inside.folders.checkpoints.folder / key).write_bytes(b"here")
    for key in ("g.1.ckpt", "g.3.ckpt"):
        await inside.files.checkpoints.storage.put(key, content())

    assert await scratch.checkpoint_for("g", 3, "g.1.ckpt") == "g.2.ckpt"
    assert await scratch.checkpoint_for("g", 3, None) == "g.2.ckpt"
    assert await scratch.checkpoint_for("g", 4, "g.3.ckpt") == "g.3.ckpt"
    assert (inside.folders.checkpoints.folder / "g.3.ckpt").read_bytes() == b"pixels"
    assert await scratch.checkpoint_for("g", 9, "g.8.ckpt") is None
    assert await scratch.checkpoint_for("h", 9, None) is None


async def test_no_preview_is_stored_after_the_run(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    put = ObjectStorage.put

    async def slow(storage: ObjectStorage, key: str, chunks: AsyncIterable[bytes]) -> None:
        if storage.folder == "previews":
            begun.set()
            await go_on.wait()
        await put(storage, key, chunks)

    async def render(run: Run) -> Any:
        await begun.wait()
        return inside.engine.render(run)

    monkeypatch.setattr(ObjectStorage, "put", slow)
    inside.engine.script.append(render)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.dispatcher.executors[0].device.finishing)
    go_on.set()
    await asyncio.sleep(0.3)
    assert await stored(inside, "previews") == {}
    inside.engine.end_files(inside.engine.finish)
    assert (await inside.until(generation)).status is Status.SUCCEEDED
