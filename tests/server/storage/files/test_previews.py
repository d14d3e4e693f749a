"""Pictures of what runs: there while a worker goes on, gone with it, however it ends."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import PreviewNotFoundError, RecordsUnavailableError
from server.core.generation import Generation, Status
from server.engine.interface import GenerationFailedError
from server.engine.protocol import Done, Run
from server.storage.files.previews import preview_key
from server.storage.files.stores import LocalFolders
from tests.server.conftest import Inside, build, eventually


def pictures(inside: Inside) -> set[str]:
    return {path.name for path in inside.folders.previews.folder.iterdir()}


async def shown(inside: Inside) -> Generation:
    """A generation that runs, and has a picture, until it is cancelled or suspended."""

    async def until_stopped(job: Run) -> Done:
        ends = [asyncio.create_task(end(job)) for end in (inside.engine.until_cancelled, inside.engine.until_suspended)]
        done, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        return await done.pop()

    inside.engine.script.append(until_stopped)
    (generation,) = await inside.enqueue()
    await eventually(lambda: pictures(inside))
    return await inside.read(generation)


async def test_a_picture_is_told_of_with_the_progress_of_its_step(inside: Inside) -> None:
    generation = await shown(inside)

    live = inside.dispatcher.live(generation)

    assert live is not None
    assert live.preview == 1
    assert await inside.files.previews.preview(generation.id, 1) == b"picture"
    assert [event.live.preview for event in inside.events if event.live] == [None, 1]
    await inside.service.cancel("", generation.id)
    assert inside.dispatcher.live(await inside.read(generation)) is None


def fail(_job: Run) -> Done:
    raise GenerationFailedError("Not numbers.")


def break_down(_job: Run) -> Done:
    raise ZeroDivisionError


# the same names in every process that tests run in
ENDS = ("finish", "fail", "break_down", "die", "finish_and_die")


@pytest.mark.parametrize("end", ["finish", fail, break_down, "die", "finish_and_die"], ids=ENDS)
async def test_no_end_of_a_run_leaves_a_picture(inside: Inside, end: str | Callable[[Run], Done]) -> None:
    run = getattr(inside.engine, end) if isinstance(end, str) else end
    seen = []

    def look_then_end(job: Run) -> Done:
        seen.append(pictures(inside))
        (inside.folders.previews.folder / f".{job.preview}.part").write_bytes(b"half")
        result: Done = run(job)
        return result

    # a worker that died is given another try
    inside.engine.script += [look_then_end, look_then_end]
    (generation,) = await inside.enqueue()
    assert (await inside.until(generation)).is_terminal

    await eventually(lambda: inside.dispatcher.executors[0].device.running is None)
    assert seen[0] == {preview_key(generation.id, 1)}
    assert pictures(inside) == set()


async def test_a_cancelled_generations_picture_goes_when_its_worker_has_stopped(inside: Inside) -> None:
    generation = await shown(inside)

    await inside.service.cancel("", generation.id)

    await eventually(lambda: not pictures(inside))
    with pytest.raises(PreviewNotFoundError):
        await inside.files.previews.preview(generation.id, 1)


async def test_a_stop_leaves_no_picture_whether_it_saves_or_not(inside: Inside) -> None:
    await shown(inside)
    await inside.dispatcher.suspend(10)
    assert pictures(inside) == set()
    await inside.dispatcher.stop()

    again = build(inside.folder)
    again.engine.script.append(again.engine.until_cancelled)
    await again.dispatcher.start()
    await eventually(lambda: pictures(again))
    close = again.engine.close

    async def write_then_close() -> None:
        # a worker draws until its very end
        again.engine.show(again.engine.runs[-1])
        await close()

    again.engine.close = write_then_close  # type: ignore[method-assign]
    await again.dispatcher.stop()

    assert pictures(again) == set()
    again.store.close()


async def test_a_picture_goes_although_the_end_cannot_be_written_down(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.attempt.BACKOFF_SECONDS", 0.05)
    succeed = inside.store.attempts.succeed
    failures = 0

    async def fail_once(*args: Any, **facts: Any) -> Generation:
        nonlocal failures
        failures += 1
        if failures == 1:
            assert pictures(inside) == set()
            assert inside.dispatcher.executors[0].device.running is not None
            assert inside.dispatcher.executors[0].device.running.live.preview is None
            raise RecordsUnavailableError("no room", "make some")
        return await succeed(*args, **facts)

    monkeypatch.setattr(inside.store.attempts, "succeed", fail_once)
    (generation,) = await inside.enqueue()

    assert (await inside.until(generation)).status is Status.SUCCEEDED
    assert failures == 2


async def test_previews_without_a_running_generation_are_removed_at_the_start_and_later(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    previews = LocalFolders.of(folder).previews
    for name in ("killed.jpg", ".killed.jpg.part"):
        (previews.folder / name).write_bytes(b"left")
    inside = build(folder, lease=1.1)
    await inside.dispatcher.start()
    assert pictures(inside) == set()

    generation = await shown(inside)
    for name in ("late.jpg", ".later.jpg.part"):
        (previews.folder / name).write_bytes(b"left")

    await eventually(lambda: pictures(inside) == {preview_key(generation.id, 1)})
    await inside.dispatcher.stop()
    inside.store.close()


async def test_a_picture_that_cannot_be_removed_costs_no_video(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".jpg":
            raise OSError(30, "Read-only file system")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    (generation,) = await inside.enqueue()

    assert (await inside.until(generation)).status is Status.SUCCEEDED
