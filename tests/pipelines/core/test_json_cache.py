"""Cached values: typed, shared by processes; a damaged or unwritable file is no error."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.core.json_cache import JsonCache
from pipelines.core.model import Attention


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"key": "no kernel"}', '{"key": 5}', "\x00"])
def test_a_damaged_file_is_made_again(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    path.write_text(damaged)

    assert JsonCache(path, Attention).get("key") is None
    JsonCache(path, Attention).put("key", Attention.FLASH)
    assert JsonCache(path, Attention).get("key") is Attention.FLASH
    assert json.loads(path.read_text())["key"] == "flash"


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    JsonCache(tmp_path / "file" / "attention.json", Attention).put("key", Attention.FLASH)


def test_one_damaged_entry_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    path.write_text('{"one": "flash", "two": 7}')
    cache = JsonCache(path, Attention)

    cache.put("three", Attention.SAGE)

    assert [cache.get(key) for key in ("one", "two", "three")] == [Attention.FLASH, None, Attention.SAGE]


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    def count(_: int) -> None:
        JsonCache(tmp_path / "new" / "counts.json", int).update("key", lambda known: (known or 0) + 1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(40)))

    assert JsonCache(tmp_path / "new" / "counts.json", int).get("key") == 40


@pytest.mark.parametrize("damaged", ["[]", "{", "[" * 100_000, " " * 2**21])
def test_a_damaged_file_is_logged_once(damaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "attention.json"
    path.write_text(damaged)
    cache = JsonCache(path, Attention)

    assert cache.get("key") is None
    assert caplog.messages == [f"{path} is damaged and will be made again"]
    cache.put("key", Attention.FLASH)
    caplog.clear()

    assert cache.get("key") is Attention.FLASH
    assert not caplog.messages


def test_the_values_written_longest_ago_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.core.json_cache.MAX_ENTRIES", 2)
    cache = JsonCache(tmp_path / "counts.json", int)

    for key in ("one", "two", "one", "three"):
        cache.put(key, 1)

    assert [cache.get(key) for key in ("one", "two", "three")] == [1, None, 1]


def test_what_is_removed_is_gone_and_the_rest_can_be_listed(tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    cache = JsonCache(path, Attention)
    cache.remove("one")
    assert not list(tmp_path.iterdir())
    cache.put("one", Attention.FLASH)
    cache.put("two", Attention.SAGE)
    path.write_text(path.read_text().replace("}", ', "three": 7}'))

    cache.remove("one")

    assert cache.all() == {"two": Attention.SAGE}
