"""A disk that is full, nearly full, gone or read-only; a database that is locked or damaged."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from server.core.errors import RecordsUnavailableError, UnavailableError
from server.core.generation import Outcome, Status
from server.core.settings.settings import Settings
from server.engine.interface import GenerationFailedError
from server.engine.protocol import Done, Run
from server.runtime.preflight import StartRefusedError, check_data_dir, check_records
from server.storage.files.disk import Disk
from tests.server.conftest import Inside, build, eventually
from tests.support.server_process import SmallDisk

MIB = 2**20


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.scheduler.executor.BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr("server.scheduler.attempt.BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr("server.scheduler.maintenance._ROOM_SECONDS", 0.05)
    monkeypatch.setattr("server.storage.files.disk._FRESH_SECONDS", 0.0)


@asynccontextmanager
async def on(
    disk: SmallDisk, *, starts: bool = True, min_free_bytes: int = 0, lease: float = 60
) -> AsyncIterator[Inside]:
    """A server's inside whose data directory is on a small disk."""
    inside = build(disk.folder / "data", min_free_bytes=min_free_bytes, lease=lease)
    if starts:
        await inside.dispatcher.start()
    yield inside
    await inside.dispatcher.stop()
    with closing(sqlite3.connect(inside.folder / "paddock.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    inside.store.close()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, in which there must be no traceback and no line again and again."""
    caplog.set_level(logging.INFO)
    yield caplog
    assert not [record for record in caplog.records if record.exc_info]
    assert len([text for text in caplog.messages if "No space left" in text]) <= 1


# room


async def test_room_is_looked_up_once_a_second_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    caplog.set_level(logging.INFO)
    now, free, looks = [0.0], [5 * MIB], []

    def look(folder: Path) -> object:
        looks.append(folder)
        return type("Usage", (), {"free": free[0]})

    monkeypatch.setattr("server.storage.files.disk.shutil.disk_usage", look)
    disk = Disk(tmp_path, 4 * MIB, clock=lambda: now[0])

    async def ask(at: float, left: int) -> str | None:
        now[0], free[0] = at, left
        return await disk.shortage()

    assert await ask(0.0, 4 * MIB) is None
    assert await ask(0.9, 0) is None
    assert len(looks) == 1
    sentence = await ask(1.0, 4 * MIB - 1)
    assert sentence is not None
    assert "3 MiB is free, and at least 4 MiB must stay free." in sentence
    assert str(tmp_path) not in sentence
    assert "2 MiB is free" in (await ask(2.0, 2 * MIB) or "")
    assert await ask(3.0, 4 * MIB) is None
    assert disk.free == 4 * MIB
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_with_too_little_room_nothing_is_accepted_and_what_waits_runs_later(
    small_disk: SmallDisk, quiet: pytest.LogCaptureFixture
) -> None:
    async with on(small_disk, starts=False, min_free_bytes=MIB) as inside:
        (waiting,) = await inside.enqueue()
        small_disk.fill(leave=MIB // 2)
        await inside.dispatcher.start()

        with pytest.raises(
            UnavailableError, match="nearly full: 0 MiB is free, and at least 1 MiB must stay free"
        ) as caught:
            await inside.enqueue()
        assert int(caught.value.headers["Retry-After"]) > 0
        inside.dispatcher.wake()
        await asyncio.sleep(0.2)
        assert await inside.store.history.queued() == 1
        assert (await inside.read(waiting)).attempt == 0

        small_disk.empty()
        assert (await inside.until(waiting)).status is Status.SUCCEEDED
        assert (await inside.until(*await inside.enqueue())).status is Status.SUCCEEDED
    assert len([text for text in quiet.messages if "nearly full" in text]) == 1


async def test_a_data_directory_that_vanished_takes_no_work(tmp_path: Path) -> None:
    inside = build(tmp_path / "data")
    inside.folder.rename(tmp_path / "elsewhere")

    with pytest.raises(UnavailableError, match="data directory cannot be reached: No such file or directory"):
        await inside.enqueue()
    inside.store.close()


# no space left, at every write of the records


async def test_full_at_enqueue(small_disk: SmallDisk, quiet: pytest.LogCaptureFixture) -> None:
    async with on(small_disk) as inside:
        await inside.until(*await inside.enqueue())
        small_disk.fill()

        for _ in range(3):
            with pytest.raises(UnavailableError, match="No space left on the server's disk") as caught:
                await inside.enqueue(4, prompt="x" * 5_000)
            assert int(caught.value.headers["Retry-After"]) > 0
        assert await inside.store.history.queued() == 0

        small_disk.empty()
        assert (await inside.until(*await inside.enqueue())).status is Status.SUCCEEDED
    assert "the database can be written again" in quiet.messages


async def test_full_at_claim(small_disk: SmallDisk, quiet: pytest.LogCaptureFixture) -> None:
    async with on(small_disk, starts=False) as inside:
        generations = [*await inside.enqueue(3), *await inside.enqueue(2)]
        small_disk.fill()
        await inside.dispatcher.start()
        await eventually(lambda: "No space left" in quiet.text)
        await asyncio.sleep(0.2)
        assert await inside.store.history.queued() == 5

        small_disk.empty()
        finished = [await inside.until(generation) for generation in generations]
        assert {(g.status, g.attempt) for g in finished} == {(Status.SUCCEEDED, 1)}


async def test_full_at_renewal(small_disk: SmallDisk, quiet: pytest.LogCaptureFixture) -> None:
    async with on(small_disk, lease=1.2) as inside:

        async def fill_for_a_while(job: Run) -> Done:
            small_disk.fill()
            await eventually(lambda: "was not renewed" in quiet.text)
            small_disk.empty()
            await eventually(lambda: "the database can be written again" in quiet.messages)
            return inside.engine.finish(job)

        inside.engine.script.append(fill_for_a_while)
        finished = await inside.until(*await inside.enqueue())

        assert (finished.status, finished.attempt) == (Status.SUCCEEDED, 1)


@pytest.mark.parametrize("ends_well", [True, False])
async def test_full_at_the_end(ends_well: bool, small_disk: SmallDisk, quiet: pytest.LogCaptureFixture) -> None:
    async with on(small_disk) as inside:

        def end_and_fill(job: Run) -> Done:
            done = inside.engine.finish(job).model_copy(update={"fingerprint": {"plan": "leaner"}})
            small_disk.fill()
            if ends_well:
                return done
            (inside.folders.videos.folder / job.artifact).unlink()
            raise GenerationFailedError("Not numbers.")

        inside.engine.script.append(end_and_fill)
        (generation,) = await inside.enqueue()
        await eventually(lambda: "No space left" in quiet.text)
        await asyncio.sleep(0.2)
        assert (await inside.read(generation)).status is Status.PROCESSING

        small_disk.empty()
        finished = await inside.until(generation)

        assert len(inside.engine.runs) == 1
        if ends_well:
            assert (finished.status, finished.fingerprint) == (Status.SUCCEEDED, {"plan": "leaner"})
        else:
            assert (finished.status, finished.error_message) == (Status.FAILED, "Not numbers.")
        assert await inside.outcomes() == [Outcome.SUCCEEDED if ends_well else Outcome.FAILED]


async def test_stopped_while_full_the_work_is_done_after_the_next_start(small_disk: SmallDisk) -> None:
    async with on(small_disk) as inside:

        def finish_and_fill(job: Run) -> Done:
            done = inside.engine.finish(job)
            small_disk.fill()
            return done

        inside.engine.script.append(finish_and_fill)
        (generation,) = await inside.enqueue()
        await eventually(lambda: inside.engine.runs)
        await asyncio.sleep(0.1)
    small_disk.empty()

    async with on(small_disk) as again:
        assert (await again.until(generation)).status is Status.SUCCEEDED
        assert again.engine.runs == []


# the database locked by another program


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Another process in the middle of a write."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.communicate()


async def test_a_database_that_another_program_holds_is_told_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.storage.db.connection.BUSY_MS", 100)
    inside = build(tmp_path / "data")
    (waiting,) = await inside.enqueue()

    with held(inside.folder / "paddock.db"):
        with pytest.raises(UnavailableError, match="locked by another program"):
            await inside.enqueue()
        with pytest.raises(RecordsUnavailableError):
            await inside.store.attempts.claim("me", 60)
        assert (await inside.read(waiting)).status is Status.QUEUED
        with pytest.raises(StartRefusedError, match=r"paddock\.db cannot be used: database is locked"):
            check_records(inside.settings)

    await inside.dispatcher.start()
    assert (await inside.until(waiting)).status is Status.SUCCEEDED
    assert (await inside.until(*await inside.enqueue())).status is Status.SUCCEEDED
    await inside.dispatcher.stop()
    inside.store.close()


# what it does not start with


def test_a_full_disk_is_refused_at_the_start(small_disk: SmallDisk) -> None:
    settings = Settings(data_dir=small_disk.folder / "data")
    check_data_dir(settings)
    small_disk.fill(leave=100_000)

    with pytest.raises(StartRefusedError, match=r"data directory .*/data cannot be used: No space left on device\."):
        check_data_dir(settings)


def test_a_read_only_directory_is_refused_at_the_start(small_disk: SmallDisk) -> None:
    settings = Settings(data_dir=small_disk.folder / "data")
    check_data_dir(settings)
    small_disk.make_read_only()

    with pytest.raises(StartRefusedError, match=r"data directory .*/data cannot be used: Read-only file system\."):
        check_data_dir(settings)


def test_a_read_only_database_is_refused_at_the_start(small_disk: SmallDisk, tmp_path: Path) -> None:
    check_records(Settings(data_dir=small_disk.folder))
    # root may write a file whatever its mode: only one on a disk that cannot be written is read-only for all
    settings = Settings(data_dir=tmp_path / "data")
    settings.data_dir.mkdir()
    (settings.data_dir / "paddock.db").symlink_to(small_disk.folder / "paddock.db")
    small_disk.make_read_only()

    with pytest.raises(StartRefusedError, match=r"paddock\.db cannot be used: .*Make it writable"):
        check_records(settings)


@pytest.mark.parametrize("content", [b"not a database " * 500, b"SQLite format 3\0" + b"\xff" * 8_000])
def test_a_damaged_database_is_refused_at_the_start(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "paddock.db").write_bytes(content)

    with pytest.raises(StartRefusedError, match=r"paddock\.db cannot be used: .* Restore a copy"):
        check_records(Settings(data_dir=tmp_path))
    assert (tmp_path / "paddock.db").read_bytes() == content


async def test_a_database_damaged_while_it_is_served_is_a_sentence(
    tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    inside = build(tmp_path / "data")
    await inside.enqueue()
    inside.store.close()
    inside = build(tmp_path / "data")
    path = inside.folder / "paddock.db"
    pages = path.read_bytes()
    path.write_bytes(pages[:4096] + b"\xff" * (len(pages) - 4096))

    with pytest.raises(UnavailableError, match="database is damaged"):
        await inside.enqueue()
    inside.store.close()
