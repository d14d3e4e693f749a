"""Atomic writes: old or new content at any moment, nothing left after a failure, synced before the rename."""

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import IO, Any

import pytest

from pipelines.core import files
from pipelines.core.files import atomic_path, atomic_write, durable_rename, opened, part_path


@pytest.mark.parametrize("content", ["drei Äpfel\n", b"\x00\xff", memoryview(b"\x00\xff")])
def test_text_and_bytes_are_written(content: str | bytes | memoryview, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")

    atomic_write(path, content)

    assert path.read_bytes() == ("drei Äpfel\n".encode() if isinstance(content, str) else b"\x00\xff")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_failed_write_changes_nothing_and_leaves_nothing(is_there: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if is_there:
        path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as part:
            part.write_text("half")
            assert part == part_path(path)
            assert path.exists() == is_there
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == ({"file": "old"} if is_there else {})


def test_a_disk_that_fails_at_the_sync_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")

    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"file": "old"}


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_part_left_by_a_killed_process_is_not_continued(is_folder: bool, tmp_path: Path) -> None:
    path, part = tmp_path / "file", part_path(tmp_path / "file")
    if is_folder:
        part.mkdir()
        (part / "old").write_text("old")
    else:
        part.write_text("half of the old")

    with atomic_path(path) as given:
        assert not given.exists()
        given.write_text("new")

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def write(is_good: bool) -> None:
        with atomic_path(path) as part:
            part.mkdir()
            (part / "file").write_text("content")
            if not is_good:
                raise ValueError

    with pytest.raises(ValueError):
        write(is_good=False)
    assert list(tmp_path.iterdir()) == []

    write(is_good=True)
    assert (path / "file").read_text() == "content"


def test_content_is_synced_before_the_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    path, part = tmp_path / "file", tmp_path / "part"
    part.write_text("content")
    monkeypatch.setattr(files, "sync", lambda synced: done.append((synced.name, path.exists())))

    durable_rename(part, path)
    assert done == [("part", False), (tmp_path.name, True)]

    done.clear()
    atomic_write(path, "content")
    assert done == [(".file.part", True), (tmp_path.name, True)]

    done.clear()
    atomic_write(path, "content", durable=False)
    assert done == []


def test_a_secret_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(files, "sync", lambda synced: seen.append(stat.S_IMODE(synced.stat().st_mode)))
    part_path(tmp_path / "key").touch(mode=0o644)

    atomic_write(tmp_path / "key", "secret", permissions=0o600)

    assert seen[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


class SlowPath:
    """A file that opens only when it is `let`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked, self.let = threading.Event(), threading.Event()
        self.file: IO[bytes] | None = None

    def open(self, mode: str) -> Any:
        """Wait, and open the file."""
        self.asked.set()
        assert self.let.wait(30)
        self.file = self.path.open(mode)  # type: ignore[assignment]
        return self.file


async def test_a_file_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    slow: Any = SlowPath(tmp_path / "file")
    slow.path.write_bytes(b"1")

    async def read() -> None:
        async with opened(slow, "rb"):
            raise AssertionError("the task was cancelled")

    reading = asyncio.create_task(read())
    await asyncio.to_thread(slow.asked.wait, 30)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    slow.let.set()

    for _ in range(3000):
        if slow.file is not None and slow.file.closed:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the file is still open")


async def test_an_opened_file_is_closed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with opened(tmp_path / "file", "rb"):
            pass
    with pytest.raises(ValueError, match="no"):
        async with opened(tmp_path / "file", "wb") as file:
            raise ValueError("no")
    assert file.closed
