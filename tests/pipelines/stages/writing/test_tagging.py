"""A comment is all that tells two files apart: the packets are the same."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.stages.writing.ffmpeg import find_ffmpeg
from pipelines.stages.writing.video_writer import Mp4Writer
from server.recipe.container import read_comment
from tests.support.video import packets

COMMENT = '{"prompt":"an ox; = # \\\\ \\n [x] é 水 \u2028 \U0001f402","seed":7}'


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)

    def write(name: str, comment: str | None, before: Path | None = None, *, is_heard: bool = False) -> Path:
        with Mp4Writer(tmp_path / name, 64, 64, 16, before) as writer:
            writer.write(noise)
            if is_heard:
                writer.hear(np.sin(np.arange(2 * 24_000).reshape(2, -1) / 50).astype(np.float32), 48_000)
            writer.comment = comment
            video = writer.close()
        assert video.size == (tmp_path / name).stat().st_size
        return tmp_path / name

    return write


@pytest.mark.parametrize("is_heard", [False, True])
@pytest.mark.parametrize("is_joined", [False, True])
def test_the_packets_are_the_same_with_and_without_a_comment(
    written: Callable[..., Path], tmp_path: Path, is_heard: bool, is_joined: bool
) -> None:
    before = written("before.mp4", "the comment of another video") if is_joined else None

    plain = written("plain.mp4", None, before, is_heard=is_heard)
    said = written("said.mp4", COMMENT, before, is_heard=is_heard)

    assert read_comment(said).decode() == COMMENT
    assert packets(said) == packets(plain)
    assert packets(said).count("\n0,") == (18 if is_joined else 9)
    assert ("\n1," in packets(said)) == is_heard
    assert b"another video" not in plain.read_bytes() + said.read_bytes()
    assert said.read_bytes() == written("again.mp4", COMMENT, before, is_heard=is_heard).read_bytes()
    # still first, so that players begin at once
    assert said.read_bytes().index(b"moov") < said.read_bytes().index(b"mdat")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".mp4"] * len(list(tmp_path.iterdir()))


def test_a_comment_may_be_as_long_as_a_recipe(written: Callable[..., Path]) -> None:
    long = "水=" * (2**18 // 4)

    assert read_comment(written("long.mp4", long)).decode() == long


def test_ffmpeg_shows_it_as_the_comment(written: Callable[..., Path]) -> None:
    said = subprocess.run(
        [find_ffmpeg(), "-hide_banner", "-i", str(written("said.mp4", "an ox"))],
        stderr=subprocess.PIPE,
        check=False,
        text=True,
    ).stderr

    assert "    comment         : an ox\n" in said
