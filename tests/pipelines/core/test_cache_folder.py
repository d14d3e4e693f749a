"""Derived files are made once, checked when used, and removed when they are damaged, orphaned or too many."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.core import cache_folder
from pipelines.core.cache_folder import CacheEntry, CacheFolder

FACTS = {"source": "a"}
KIB = 1024


def folder(path: Path, limit: int = 100 * KIB, is_current: Callable[[Any, Any], bool] = lambda *_: True) -> CacheFolder:
    return CacheFolder(path / "cache", limit, is_current)


def make(cache: CacheFolder, facts: dict[str, Any] | None = None, size: int = 10 * KIB) -> tuple[CacheEntry, bool]:
    """The entry, and whether it was made now."""
    made: list[Path] = []

    def write(path: Path) -> None:
        (path / "deep").mkdir()
        (path / "deep" / "data").write_bytes(b"x" * size)
        (path / "small").write_bytes(b"small")
        made.append(path)

    return cache.make("kind", facts or FACTS, write), bool(made)


def names(cache: CacheFolder) -> set[str]:
    return {path.name for path in cache.path.iterdir()}


def used_at(entry: CacheEntry, seconds: int) -> None:
    os.utime(entry.path / "entry.json", (seconds, seconds))


def test_an_entry_is_made_once_for_what_it_is_made_from(tmp_path: Path) -> None:
    entry, made = make(folder(tmp_path))
    again, made_again = make(folder(tmp_path))
    other, made_other = make(folder(tmp_path), {"source": "b"})

    assert (made, made_again, made_other) == (True, False, True)
    assert again.path == entry.path != other.path
    assert [file.name for file in again.files] == ["data", "small"]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {entry.path.name, other.path.name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "deep" / "data").write_bytes(b"x" * 100),
        lambda path: (path / "deep" / "data").write_bytes(b"y" + b"x" * (10 * KIB - 1)),
        lambda path: (path / "small").unlink(),
        lambda path: (path / "entry.json").write_text("{"),
        lambda path: (path / "entry.json").write_text("[]"),
        lambda path: (path / "entry.json").write_text('{"made_from": {"source": "a"}, "files": {"small": 7}}'),
        lambda path: (path / "entry.json").write_text('{"made_from": {"source": "b"}, "files": {}}'),
        lambda path: (path / "entry.json").unlink(),
    ],
    ids=["cut off", "flipped", "missing", "manifest cut off", "a list", "no sizes", "of another", "no manifest"],
)
def test_a_damaged_entry_is_made_again_once(
    damage: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry, _ = make(folder(tmp_path))
    damage(entry.path)
    is_unfinished = not (entry.path / "entry.json").exists()

    _, made = make(folder(tmp_path))
    again, made_again = make(folder(tmp_path))

    assert (made, made_again) == (True, False)
    assert (again.path / "deep" / "data").read_bytes() == b"x" * 10 * KIB
    # without its manifest an entry counts as one that was never finished
    told = [line for line in caplog.messages if "is damaged and will be made again" in line]
    assert len(told) == (0 if is_unfinished else 1)


def test_a_damaged_entry_that_another_process_makes_again_is_left_to_it(tmp_path: Path) -> None:
    cache = folder(tmp_path)
    entry, _ = make(cache)
    (entry.path / "small").unlink()

    with cache._writing(entry.path):
        assert cache.find("kind", FACTS) is None
        assert entry.path.exists()

    assert cache.find("kind", FACTS) is None
    assert not entry.path.exists()


def test_a_large_file_is_hashed_only_if_its_time_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_folder, "ALWAYS_HASHED_BYTES", KIB)
    entry, _ = make(folder(tmp_path))
    hashed: list[str] = []
    hash_ = cache_folder.sha256_of
    monkeypatch.setattr(cache_folder, "sha256_of", lambda path: hashed.append(path.name) or hash_(path))

    make(folder(tmp_path))
    assert hashed == ["small"]
    data = entry.path / "deep" / "data"
    # a copy of the cache has other times
    os.utime(data, (1, 1))
    _, made = make(folder(tmp_path))
    assert hashed == ["small", "data", "small"]
    assert not made
    data.write_bytes(b"y" * 10 * KIB)
    assert make(folder(tmp_path))[1]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        folder(tmp_path).make("kind", FACTS, fail)

    assert not names(folder(tmp_path))


def test_the_least_recently_used_are_removed_but_not_those_in_use(tmp_path: Path) -> None:
    cache = folder(tmp_path, limit=35 * KIB)
    entries = [make(cache, {"source": name})[0] for name in "abc"]
    for age, entry in zip((3, 1, 2), entries, strict=True):
        used_at(entry, 1000 - age)
    entries[0].release()
    entries[1].release()

    make(cache, {"source": "d"})

    # "c" is in use, and "a" is the one of the others that was used longer ago
    assert [entry.path.exists() for entry in entries] == [False, True, True]
    used_at(entries[2], 1)
    make(cache, {"source": "e"}, size=15 * KIB)
    assert [entry.path.exists() for entry in entries] == [False, False, True]


def test_room_is_made_before_an_entry_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folder(tmp_path, limit=35 * KIB)
    entries = [make(cache, {"source": name})[0] for name in "ab"]
    for age, entry in enumerate(entries):
        used_at(entry, 1000 + age)
        entry.release()
    there: list[list[bool]] = []

    def note(_: Path) -> None:
        there.append([entry.path.exists() for entry in entries])

    cache.make("kind", {"source": "c"}, note, needed=20 * KIB).release()
    assert there == [[False, True]]
    # within the limit, but not on the disk
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=KIB))
    cache.make("kind", {"source": "d"}, note, needed=2 * KIB)
    assert there[1:] == [[False, False]]


def test_using_an_entry_keeps_it(tmp_path: Path) -> None:
    cache = folder(tmp_path, limit=25 * KIB)
    for age, name in enumerate("ab"):
        entry, _ = make(cache, {"source": name})
        used_at(entry, 1000 + age)
        entry.release()
    make(cache, {"source": "a"})[0].release()

    make(cache, {"source": "c"})

    assert not make(cache, {"source": "a"})[1]


def test_an_entry_that_another_process_uses_is_kept_until_it_ends(tmp_path: Path) -> None:
    cache = folder(tmp_path, is_current=lambda facts, _: facts["source"] != "gone")
    entry, _ = make(cache, {"source": "gone"})
    program = (
        "import sys; from pathlib import Path; from pipelines.core.cache_folder import CacheFolder\n"
        "held = CacheFolder(Path(sys.argv[1]), 0, lambda *_: True).find('kind', {'source': 'gone'})\n"
        "print(held.path, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(cache.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline().strip() == str(entry.path)
        entry.release()
        cache.clean()
        assert entry.path.exists()
        user.communicate("")

    cache.clean()

    assert not entry.path.exists()


def test_orphans_and_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    cache = folder(tmp_path, is_current=lambda facts, _: facts["source"] == "kept")
    kept, _ = make(cache, {"source": "kept"})
    make(cache, {"source": "gone"})[0].release()
    # a writer that was killed, a lock file of another, what version 0.2.0 wrote
    (cache.path / "kind-0123456789abcdef").mkdir()
    (cache.path / "kind-0123456789abcdef" / "half").touch()
    (cache.path / "kind-1111111111111111.lock").touch()
    (cache.path / "fedcba9876543210" / ".transformer-q4.part").mkdir(parents=True)
    (cache.path / "aaaaaaaaaaaaaaaa").touch()
    for mine in ("my models", "weights.toml"):
        (cache.path / mine).mkdir()

    cache.clean()

    assert names(cache) == {kept.path.name, "my models", "weights.toml"}


def test_an_entry_stays_while_what_it_was_made_from_is_where_it_was_last_used(tmp_path: Path) -> None:
    cache = folder(tmp_path, is_current=lambda _, origin: all(Path(path).exists() for path in origin))
    for place in ("first", "second"):
        (tmp_path / place).touch()
        cache.make("kind", FACTS, lambda path: (path / "data").touch(), origin=[str(tmp_path / place)]).release()
    assert len(names(cache)) == 1

    (tmp_path / "first").unlink()
    cache.clean()
    assert len(names(cache)) == 1
    (tmp_path / "second").unlink()
    cache.clean()
    assert not names(cache)


def test_two_processes_write_an_entry_once(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from pipelines.core.cache_folder import CacheFolder\n"
        "def write(path):\n"
        "    (path / 'data').touch(); open(sys.argv[2], 'a').write('written\\n'); time.sleep(0.3)\n"
        "CacheFolder(Path(sys.argv[1]), 1000, lambda *_: True).make('kind', {'source': 'a'}, write)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), str(tmp_path / "log")]
    running = [subprocess.Popen(command) for _ in range(3)]

    assert [process.wait() for process in running] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "written\n"
    assert [path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()] == ["kind"]


def test_the_manifest_says_what_an_entry_was_made_from(tmp_path: Path) -> None:
    entry, _ = make(folder(tmp_path))

    manifest = json.loads((entry.path / "entry.json").read_text())

    assert manifest["made_from"] == FACTS
    assert manifest["files"]["deep/data"]["size"] == 10 * KIB
