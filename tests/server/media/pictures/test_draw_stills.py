"""The still pictures of a video: their sizes, the frames that they show, and what becomes of files that have none."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.media.limits import REFUSED, RefusedInputError
from server.media.pictures.draw_stills import draw
from server.media.pictures.stills_layout import fitted, thumbnail_frame, tile_frames
from tests.support.sound import tone
from tests.support.stills import TOLERANCE, difference, pixels, tiles, write_ramp
from tests.support.video import read_video


def drawn(video: Path) -> tuple[Image.Image, Image.Image]:
    """The thumbnail and the spritesheet of a video."""
    paths = [video.with_suffix(suffix) for suffix in (".thumbnail.webp", ".spritesheet.webp")]
    draw(video, *paths)
    pictures = [Image.open(io.BytesIO(path.read_bytes())) for path in paths]
    assert [picture.format for picture in pictures] == ["WEBP", "WEBP"]
    return pictures[0], pictures[1]


def test_the_frames_are_evenly_spaced_from_the_first_to_the_last() -> None:
    assert tile_frames(16) == [*range(16)]
    assert tile_frames(81) == [0, 5, 11, 16, 21, 27, 32, 37, 43, 48, 53, 59, 64, 69, 75, 80]
    assert tile_frames(1) == [0] * 16
    assert tile_frames(5) == sorted(tile_frames(5))
    assert {*tile_frames(5)} == {*range(5)}
    assert [thumbnail_frame(count) for count in (1, 2, 4, 81)] == [0, 0, 1, 27]


@pytest.mark.parametrize(
    ("size", "fit"),
    [((832, 480), (384, 222)), ((480, 832), (222, 384)), ((96, 64), (96, 64)), ((1280, 2), (384, 1))],
)
def test_a_picture_keeps_its_shape_and_is_never_enlarged(size: tuple[int, int], fit: tuple[int, int]) -> None:
    assert fitted(*size, 384) == fit


@pytest.mark.parametrize(
    ("width", "height", "thumbnail", "sheet"),
    [
        (416, 240, (384, 222), (768, 444)),
        (240, 416, (222, 384), (444, 768)),
        (832, 480, (384, 222), (768, 444)),
        (96, 64, (96, 64), (384, 256)),
        (1280, 16, (384, 5), (768, 8)),
        (2, 2, (2, 2), (8, 8)),
    ],
)
def test_sizes(width: int, height: int, thumbnail: tuple[int, int], sheet: tuple[int, int], tmp_path: Path) -> None:
    pictures = drawn(write_ramp(tmp_path / "video.mp4", 5, width, height))

    assert [picture.size for picture in pictures] == [thumbnail, sheet]


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 33, 121])
def test_each_tile_shows_its_frame(frames: int, tmp_path: Path) -> None:
    video = write_ramp(tmp_path / "video.mp4", frames)
    of_file = read_video(video)
    assert len(of_file) == frames

    thumbnail, sheet = drawn(video)

    assert difference(thumbnail, of_file[thumbnail_frame(frames)]) < TOLERANCE
    for number, tile in zip(tile_frames(frames), tiles(sheet), strict=True):
        assert difference(tile, of_file[number]) < TOLERANCE, number
        # it is no other one
        nearest = np.argmin([difference(tile, frame) for frame in of_file])
        assert abs(int(nearest) - number) <= max(1, frames // 60), number


def test_a_joined_video_with_a_sound_is_shown_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(tone(3.0))
    before = write_ramp(tmp_path / "before.mp4", 21)
    video = write_ramp(tmp_path / "both.mp4", 20, before=before, sound=tmp_path / "sound.wav")
    of_file, content = read_video(video), video.read_bytes()

    _, sheet = drawn(video)

    assert video.read_bytes() == content
    for number, tile in zip(tile_frames(41), tiles(sheet), strict=True):
        assert difference(tile, of_file[number]) < TOLERANCE, number


def test_equal_videos_have_equal_pictures(tmp_path: Path) -> None:
    for name in ("one", "two"):
        drawn(write_ramp(tmp_path / f"{name}.mp4", 33, 416, 240))

    for suffix in ("thumbnail.webp", "spritesheet.webp"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_files_that_are_no_video_are_refused(tmp_path: Path) -> None:
    whole = write_ramp(tmp_path / "video.mp4", 9).read_bytes()
    for content in (b"", b"video", b"#EXTM3U\n/etc/passwd\n", whole[:600]):
        path = tmp_path / "damaged.mp4"
        path.write_bytes(content)
        with pytest.raises(RefusedInputError, match=r"decoded|frames"):
            drawn(path)


def test_a_file_that_ends_early_shows_what_there_is(tmp_path: Path) -> None:
    whole = write_ramp(tmp_path / "video.mp4", 33, 416, 240).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 2 // 3])

    _, sheet = drawn(cut)

    of_file = read_video(tmp_path / "video.mp4")
    shown = tiles(sheet)
    assert difference(shown[0], of_file[0]) < TOLERANCE
    # the last one that could be decoded is repeated
    assert difference(shown[15], of_file[32]) > TOLERANCE
    assert float(np.abs(pixels(shown[14]) - pixels(shown[15])).mean()) < 1


def test_the_process_says_how_it_ended(tmp_path: Path) -> None:
    video = write_ramp(tmp_path / "a video.mp4", 3)
    command = [sys.executable, "-P", "-m", "server.media.pictures.draw_stills"]
    targets = [str(tmp_path / "t.webp"), str(tmp_path / "s.webp")]

    good = subprocess.run([*command, str(video), *targets], stdout=subprocess.PIPE, check=True)
    bad = subprocess.run([*command, __file__, *targets], stdout=subprocess.PIPE, check=False)

    assert json.loads(good.stdout) == {"frames": 3}
    assert Image.open(io.BytesIO((tmp_path / "t.webp").read_bytes())).size == (96, 64)
    assert bad.returncode == REFUSED
    assert "cannot be decoded" in json.loads(bad.stdout)["sentence"]
