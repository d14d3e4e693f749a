"""What `paddock generate` makes of its options."""

from pathlib import Path

import pytest

from server.cli.generate.videos import choose_outputs, parse_lora
from server.cli.options import CommandError


@pytest.mark.parametrize(
    ("option", "lora"),
    [
        ("slow camera", {"name": "slow camera"}),
        ("slow camera:0.8", {"name": "slow camera", "strength": 0.8}),
        ("v1.2:-1", {"name": "v1.2", "strength": -1.0}),
    ],
)
def test_a_lora_may_have_a_strength(option: str, lora: dict[str, object]) -> None:
    assert parse_lora(option) == lora


@pytest.mark.parametrize("option", ["slow:", "slow:much", "slow:0,8"])
def test_a_strength_that_is_no_number_is_refused(option: str) -> None:
    with pytest.raises(CommandError, match=f"--lora {option}: after the colon there must be a strength"):
        parse_lora(option)


def test_a_file_that_exists_is_replaced_only_if_told(tmp_path: Path) -> None:
    ox, default = tmp_path / "ox.mp4", tmp_path / "video.mp4"
    ox.touch()

    with pytest.raises(CommandError, match=r"ox\.mp4 exists\. .* --force"):
        choose_outputs(ox, default, 1, replace=False)
    assert choose_outputs(ox, default, 1, replace=True) == [ox]
    assert choose_outputs(tmp_path, default, 2, replace=False) == [tmp_path, tmp_path]
    with pytest.raises(CommandError, match="There is no folder"):
        choose_outputs(tmp_path / "missing" / "ox.mp4", default, 1, replace=True)


def test_several_videos_have_numbers_and_the_default_name_is_a_free_one(tmp_path: Path) -> None:
    ox, default = tmp_path / "ox.mp4", tmp_path / "video.mp4"

    def names(named: Path | None, videos: int) -> list[str]:
        return [path.name for path in choose_outputs(named, default, videos, replace=False)]

    assert names(ox, 3) == ["ox-1.mp4", "ox-2.mp4", "ox-3.mp4"]
    assert names(None, 1) == ["video.mp4"]
    default.touch()
    assert names(None, 1) == ["video-2.mp4"]
    (tmp_path / "video-2.mp4").touch()
    assert names(None, 1) == ["video-3.mp4"]
    assert names(None, 2) == ["video-1.mp4", "video-3.mp4"]
    (tmp_path / "ox-2.mp4").touch()
    with pytest.raises(CommandError, match=r"ox-2\.mp4 exists"):
        names(ox, 3)
