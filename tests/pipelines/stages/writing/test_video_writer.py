"""The MP4 file is complete, in the right colours and always the same bytes, or absent."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import EncodingError
from pipelines.core.progress import Frames
from pipelines.stages.writing.video_writer import Mp4Writer
from tests.support.server_process import SmallDisk
from tests.support.video import frame_rate, read_video

COLOURS = np.array([[200, 30, 40], [20, 180, 60], [30, 50, 210], [240, 240, 230]], np.uint8)


def bars(num_frames: int = 6, height: int = 64, width: int = 96) -> Frames:
    """Vertical bars of solid colours."""
    row = np.repeat(COLOURS, width // len(COLOURS), axis=0)
    return np.broadcast_to(row, (num_frames, height, width, 3)).copy()


def write(path: Path, frames: Frames, fps: int = 16) -> None:
    with Mp4Writer(path, frames.shape[2], frames.shape[1], fps) as writer:
        for group in np.array_split(frames, 3):
            writer.write(group)
        video = writer.close()
    assert (video.width, video.height, video.num_frames) == (frames.shape[2], frames.shape[1], len(frames))
    assert video.size == path.stat().st_size


def test_a_video_reads_back_as_it_was_written(tmp_path: Path) -> None:
    frames = bars()
    write(tmp_path / "video.mp4", frames, fps=24)

    back = read_video(tmp_path / "video.mp4")

    assert back.shape == frames.shape
    # chroma has half the resolution, so only the middle of a bar is compared
    middles = np.arange(12, 96, 24)
    assert np.abs(back[:, 32, middles].astype(int) - COLOURS).max() <= 6
    assert frame_rate(tmp_path / "video.mp4") == 24


def test_the_file_has_colour_tags_and_starts_with_its_index(tmp_path: Path) -> None:
    write(tmp_path / "video.mp4", bars())
    content = (tmp_path / "video.mp4").read_bytes()

    assert content.index(b"moov") < content.index(b"mdat")
    # colr box: primaries, transfer and matrix, each 1 for BT.709
    nclx = content.index(b"nclx")
    assert content[nclx + 4 : nclx + 10] == bytes([0, 1, 0, 1, 0, 1])


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    write(tmp_path / "a.mp4", noise)
    write(tmp_path / "b.mp4", noise)

    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("side", [(2, 2), (2, 720), (1280, 2)])
def test_the_smallest_sides_are_supported(tmp_path: Path, side: tuple[int, int]) -> None:
    frames = bars(3)[:, :1, :1].repeat(side[1], axis=1).repeat(side[0], axis=2)
    write(tmp_path / "video.mp4", frames)

    assert read_video(tmp_path / "video.mp4").shape == frames.shape


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Mp4Writer(tmp_path / "video.mp4", 96, 64, 16) as writer:
        writer.write(bars())
        raise KeyboardInterrupt

    assert not list(tmp_path.iterdir())


def test_a_failing_ffmpeg_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    # 4:2:0 has no odd sides
    with (
        pytest.raises(EncodingError, match=r"could not be written: .+"),
        Mp4Writer(tmp_path / "video.mp4", 95, 63, 16) as writer,
    ):
        for _ in range(200):
            writer.write(bars()[:, :63, :95])
        writer.close()

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", [1, 5_000, 40_000, 65_000, 100_000])
def test_a_disk_full_at_any_byte_is_an_error_and_leaves_nothing(
    missing: int, small_disk: SmallDisk, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (15, 64, 96, 3), np.uint8)
    write(tmp_path / "whole.mp4", noise)
    size = (tmp_path / "whole.mp4").stat().st_size
    small_disk.fill(leave=max(0, size - missing))

    with pytest.raises(EncodingError, match="No space left on the server's disk"):
        write(small_disk.folder / "video.mp4", noise)
    assert [path.name for path in small_disk.folder.iterdir()] == ["ballast"]

    small_disk.empty()
    write(small_disk.folder / "video.mp4", noise)
    assert (small_disk.folder / "video.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_disk_full_when_syncing_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("pipelines.core.files.sync", full)

    with pytest.raises(EncodingError, match="No space left on the server's disk"):
        write(tmp_path / "video.mp4", bars())
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(EncodingError, match="No such file or directory"),
        Mp4Writer(tmp_path / "missing" / "video.mp4", 96, 64, 16) as writer,
    ):
        writer.write(bars())
        writer.close()
