"""Learned limits of a GPU: the lowest one counts, for a week; a damaged file is ignored."""

from pathlib import Path

import pytest

from pipelines.planning.learned_limits import FORGOTTEN_AFTER_SECONDS, LearnedLimits
from tests.support.server_process import SmallDisk


def test_the_lowest_limit_of_each_gpu_is_kept(tmp_path: Path) -> None:
    limits = LearnedLimits(tmp_path / "cache" / "limits.json")
    assert limits.get("one") is None

    for size in (20, 10, 15):
        limits.learn("one", size)
    limits.learn("two", 99)

    again = LearnedLimits(tmp_path / "cache" / "limits.json")
    assert (again.get("one"), again.get("two"), again.get("three")) == (10, 99, None)


@pytest.mark.parametrize("later", [FORGOTTEN_AFTER_SECONDS + 1, -3600])
def test_an_old_limit_and_one_from_the_future_are_ignored(
    later: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LearnedLimits(tmp_path / "limits.json")
    monkeypatch.setattr("pipelines.planning.learned_limits.time.time", lambda: 1e9)
    limits.learn("card", 10)

    monkeypatch.setattr("pipelines.planning.learned_limits.time.time", lambda: 1e9 + later)
    assert limits.get("card") is None
    limits.learn("card", 20)
    assert limits.get("card") == 20


@pytest.mark.parametrize("text", ["", "[]", '{"card": 3}', '{"card": {"bytes": 1}}', "\x00"])
def test_a_damaged_file_is_ignored(text: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text(text)

    assert LearnedLimits(path).get("card") is None
    LearnedLimits(path).learn("card", 5)
    assert LearnedLimits(path).get("card") == 5


@pytest.mark.parametrize("is_read_only", [False, True])
def test_an_unwritable_disk_is_no_error(is_read_only: bool, small_disk: SmallDisk) -> None:
    limits = LearnedLimits(small_disk.folder / "cache" / "limits.json")
    limits.learn("card", 20)
    if is_read_only:
        small_disk.make_read_only()
    else:
        small_disk.fill()

    limits.learn("card", 10)

    assert limits.get("card") == 20
