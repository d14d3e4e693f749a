"""A video and its stills: they come with it where that works, and cost it nothing where it does not."""

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.core.generation import Generation, Status
from server.engine.protocol import Done, Run
from server.media.limits import RefusedInputError
from server.scheduler.files import stills as maker
from server.storage.files.folder import FolderStorage
from server.storage.files.stills import SPRITESHEET, THUMBNAIL, still_keys
from tests.server.conftest import Inside, build, eventually
from tests.support.stills import write_ramp


@pytest.fixture(params=["folder", "s3"])
async def inside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Inside]:
    """The parts, running, with their files on a disk or in an object store."""
    where = {"files_url": request.getfixturevalue("bucket_url")} if request.param == "s3" else {}
    inside = build(tmp_path / "data", stills=True, **where)
    await inside.dispatcher.start()
    yield inside
    await inside.dispatcher.stop()
    inside.store.close()


def filming(inside: Inside) -> Callable[[Run], Done]:
    """A behaviour of the engine that leaves a video with frames."""

    def film(job: Run) -> Done:
        done = inside.engine.finish(job)
        write_ramp(inside.engine.folder / job.artifact, 20)
        return done

    return film


async def made(inside: Inside, behaviour: Callable[[Run], object] | None = None) -> Generation:
    inside.engine.script = [behaviour or filming(inside)]
    (generation,) = await inside.enqueue()
    return await inside.until(generation)


async def stills(inside: Inside) -> set[str]:
    return {file.key for file in await inside.files.videos.stills.storage.list()}


async def test_a_video_has_its_stills_when_it_is_there(inside: Inside) -> None:
    generation = await made(inside)

    assert (generation.status, generation.has_stills) == (Status.SUCCEEDED, True)
    keys = still_keys(str(generation.artifact))
    assert await stills(inside) == set(keys.values())
    contents = {suffix: await inside.files.videos.stills.read(key) for suffix, key in keys.items()}
    sizes = {suffix: Image.open(io.BytesIO(content)).size for suffix, content in contents.items()}
    assert sizes == {THUMBNAIL: (96, 64), SPRITESHEET: (384, 256)}
    assert await inside.store.stills.undrawn(None, 9) == []


async def test_a_file_that_cannot_be_decoded_is_kept_without(inside: Inside, caplog: pytest.LogCaptureFixture) -> None:
    generation = await made(inside, inside.engine.finish)

    assert (generation.status, generation.has_stills) == (Status.SUCCEEDED, False)
    assert await inside.files.videos.read(str(generation.artifact)) == b"video"
    assert await stills(inside) == set()
    assert f"{generation.artifact} has no stills: it cannot be decoded" in caplog.text


async def test_a_video_whose_worker_died_waits_for_its_stills(inside: Inside) -> None:
    film = filming(inside)

    def film_and_die(job: Run) -> Done:
        film(job)
        return inside.engine.die(job)

    generation = await made(inside, film_and_die)

    assert (generation.status, generation.has_stills) == (Status.SUCCEEDED, None)
    assert [video.artifact for video in await inside.store.stills.undrawn(None, 9)] == [generation.artifact]


async def test_a_disk_that_takes_none_costs_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = FolderStorage.put

    async def full(self: FolderStorage, key: str, content: AsyncIterable[bytes]) -> None:
        if key.endswith(SPRITESHEET):
            raise OSError(28, "No space left on device")
        await put(self, key, content)

    monkeypatch.setattr(FolderStorage, "put", full)
    inside = build(tmp_path / "data", stills=True)
    await inside.dispatcher.start()
    generation = await made(inside)

    assert (generation.status, generation.has_stills) == (Status.SUCCEEDED, None)
    # nothing half is left
    assert await stills(inside) == set()
    assert "No space left on device" in caplog.text
    assert [video.id for video in await inside.store.stills.undrawn(None, 9)] == [generation.id]
    await inside.dispatcher.stop()
    inside.store.close()


class Hanging:
    """A child process that does not end."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.is_running = asyncio.Event()
        self.is_cancelled = False
        self._error = error

    async def __call__(self, *_: str, **__: Any) -> dict[str, Any]:
        self.is_running.set()
        if self._error is not None:
            raise self._error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        return {}


async def test_stills_that_take_too_long_are_not_waited_for(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child = Hanging()
    monkeypatch.setattr(maker, "run_child", child)
    monkeypatch.setattr(maker, "PATIENCE_SECONDS", 0.5)

    generation = await made(inside)

    assert (generation.status, generation.has_stills) == (Status.SUCCEEDED, None)
    assert child.is_cancelled
    assert "take too long" in caplog.text


@pytest.mark.parametrize(
    ("error", "has_stills"), [(ZeroDivisionError("a bug"), None), (RefusedInputError("is too long"), False)]
)
async def test_no_error_reaches_the_video(
    error: Exception, has_stills: bool | None, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "run_child", Hanging(error))

    generation = await made(inside)

    assert (generation.status, generation.has_stills) == (Status.SUCCEEDED, has_stills)


async def test_one_that_is_cancelled_meanwhile_leaves_nothing(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Hanging()
    monkeypatch.setattr(maker, "run_child", child)
    monkeypatch.setattr(maker, "PATIENCE_SECONDS", 1.0)
    inside.engine.script = [filming(inside)]
    (generation,) = await inside.enqueue()
    await child.is_running.wait()
    for key in still_keys(f"{generation.id}.1.mp4").values():
        await inside.files.videos.stills.storage.put(key, chunk())

    await inside.service.cancel("", generation.id)

    async with asyncio.timeout(30):
        while await stills(inside) or await inside.files.videos.keys_of(generation.id):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await inside.read(generation)).status is Status.CANCELLED


async def test_the_device_makes_the_next_video_meanwhile(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Hanging()
    monkeypatch.setattr(maker, "run_child", child)
    inside.engine.script = [filming(inside), inside.engine.until_cancelled]
    first, second = await inside.enqueue(2)

    await child.is_running.wait()
    await eventually(lambda: len(inside.engine.runs) == 2)

    assert (await inside.read(first)).status is Status.PROCESSING
    await inside.service.cancel("", second.id)


async def chunk() -> AsyncIterator[bytes]:
    yield b"still"
