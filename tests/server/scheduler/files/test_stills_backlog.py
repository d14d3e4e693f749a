"""Stills that videos lack are made later: for those of earlier versions, and those whose server died."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.core.generation import Generation, Status
from server.scheduler.files import stills_backlog as backlog
from server.scheduler.files.stills import StillsMaker
from server.scheduler.files.stills_backlog import StillsBacklog
from server.storage.db.records import QueueLimits
from server.storage.db.sharing.locks import Lock
from server.storage.files.stills import still_keys
from server.storage.files.videos import video_key
from tests.contract.store.examples import new
from tests.server.conftest import Inside, StartShared, build
from tests.support.stills import write_ramp


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    """The parts, none of which runs."""
    inside = build(tmp_path / "data")
    yield inside
    inside.store.close()


def backlog_of(inside: Inside, is_busy: Callable[[], bool] = lambda: False) -> StillsBacklog:
    videos = inside.files.videos
    return StillsBacklog(inside.store, videos, StillsMaker(videos), is_busy)


async def finished(inside: Inside, count: int = 1, *, is_here: bool = True) -> list[Generation]:
    """Generations with a video and without stills, as earlier versions left them."""
    found = [new(status=Status.SUCCEEDED, attempt=1, completed_at=time.time()) for _ in range(count)]
    found = [replace(each, artifact=video_key(each.id, 1)) for each in found]
    await inside.store.submissions.insert(found, QueueLimits(100))
    for each in found if is_here else ():
        write_ramp(inside.folders.videos.folder / str(each.artifact), 3)
    return found


async def drawn(inside: Inside, generations: list[Generation]) -> list[bool | None]:
    return [(await inside.read(each)).has_stills for each in generations]


async def until_drawn(inside: Inside, generations: list[Generation]) -> None:
    async with asyncio.timeout(60):
        while not all(await drawn(inside, generations)):  # noqa: ASYNC110 - the records tell nobody
            await asyncio.sleep(0.02)


def files(inside: Inside) -> set[str]:
    return {path.name for path in inside.folders.stills.folder.iterdir()}


async def test_all_get_theirs_newest_first_and_a_few_at_a_time(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "BATCH", 2)
    made = await finished(inside, 3)
    work = backlog_of(inside)

    assert await work.round()
    assert await drawn(inside, made) == [None, True, True]
    assert await work.round()
    assert await drawn(inside, made) == [True, True, True]
    assert not await work.round()
    assert files(inside) == {key for each in made for key in still_keys(str(each.artifact)).values()}


async def test_a_video_that_is_gone_or_damaged_is_tried_once(inside: Inside) -> None:
    gone, damaged = await finished(inside, is_here=False), await finished(inside)
    (inside.folders.videos.folder / str(damaged[0].artifact)).write_bytes(b"video")

    assert not await backlog_of(inside).round()

    assert await drawn(inside, gone + damaged) == [False, False]
    assert files(inside) == set()


async def test_nothing_is_drawn_while_the_devices_work(inside: Inside) -> None:
    made = await finished(inside, 3)
    busy = iter([False, False, True, True])

    assert await backlog_of(inside, lambda: next(busy)).round()
    assert not await backlog_of(inside, lambda: True).round()

    assert await drawn(inside, made) == [None, None, True]


async def test_a_video_that_is_removed_meanwhile_leaves_no_stills(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, vanished = await finished(inside), await finished(inside)
    keep = StillsMaker._keep

    async def meanwhile(self: StillsMaker, key: str, pictures: dict[str, Path]) -> None:
        await inside.library.delete("", [removed[0].id])
        await keep(self, key, pictures)

    async def vanish(*_: object) -> None:
        raise FileNotFoundError(2, "it was removed")

    monkeypatch.setattr(StillsMaker, "_fetch", vanish)
    assert not await backlog_of(inside).round()
    assert await drawn(inside, removed + vanished) == [None, None]
    monkeypatch.undo()
    await inside.library.delete("", [vanished[0].id])
    monkeypatch.setattr(StillsMaker, "_keep", meanwhile)

    await backlog_of(inside).round()

    assert files(inside) == set()


async def test_a_storage_that_fails_is_asked_again(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_SECONDS", "ROUND_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(backlog, name, 0.01)
    made, failures = await finished(inside), [OSError(5, "I/O error"), ZeroDivisionError("a bug")]
    keep = StillsMaker._keep

    async def fail_first(self: StillsMaker, key: str, pictures: dict[str, Path]) -> None:
        if failures:
            raise failures.pop(0)
        await keep(self, key, pictures)

    monkeypatch.setattr(StillsMaker, "_keep", fail_first)
    working = asyncio.create_task(backlog_of(inside).run())
    await until_drawn(inside, made)

    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert failures == []


async def test_a_server_starts_to_make_them_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "FIRST_SECONDS", 0.01)
    inside = build(tmp_path / "data", stills=True)
    made = await finished(inside)
    await inside.dispatcher.start()
    await until_drawn(inside, made)

    await inside.dispatcher.stop()
    inside.store.close()


async def test_half_written_stills_of_a_killed_server_go_after_an_hour(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", stills=True)
    old, new_one = (inside.folders.stills.folder / f".{name}.1.thumbnail.webp.part" for name in ("old", "new"))
    for path in (old, new_one):
        path.write_bytes(b"RI")
    os.utime(old, (time.time() - 3700,) * 2)

    await inside.dispatcher.start()
    await inside.dispatcher.stop()

    assert (old.exists(), new_one.exists()) == (False, True)
    inside.store.close()


async def test_servers_on_the_same_records_take_turns_and_leave_each_other_their_files(
    start_shared: StartShared,
) -> None:
    here, there = start_shared("here"), start_shared("there")
    made = await finished(here)

    async with there.store.locks.tried(Lock.STILLS) as is_held:
        assert is_held
        assert not await backlog_of(here).round()
    # the video is in a folder of the other one
    assert not await backlog_of(there).round()
    assert await drawn(here, made) == [None]
    assert await backlog_of(here).round()
    assert await drawn(there, made) == [True]
