"""A video is joined to the one before it, frame by frame."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipelines.core.errors import EncodingError
from pipelines.stages.writing import joining
from pipelines.stages.writing.video_writer import Mp4Writer
from tests.support.clips import ffmpeg, moving_square, write_clip
from tests.support.video import frame_rate, read_video


def times_of(path: Path) -> list[int]:
    """The presentation times of a video's packets, in order, in units of a frame at 16 a second."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "framecrc", "-c", "copy", "-"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    rows = [line.split(",") for line in listed.splitlines() if line and not line.startswith("#")]
    (scale,) = {int(line.rsplit("/", 1)[1]) for line in listed.splitlines() if line.startswith("#tb")}
    return sorted(round(int(row[2]) * 16 / scale) for row in rows)


def written_after(before: Path, path: Path, frames: int, **size: int) -> int:
    width, height = size.get("width", 96), size.get("height", 64)
    with Mp4Writer(path, width, height, 16, before) as writer:
        writer.write(moving_square(frames, width, height)[:, ::-1])
        return writer.close().num_frames


def test_both_videos_are_in_the_file_as_they_were(tmp_path: Path) -> None:
    before = write_clip(tmp_path / "it's before.mp4", 21)
    alone = tmp_path / "alone.mp4"
    with Mp4Writer(alone, 96, 64, 16) as writer:
        writer.write(moving_square(13, 96, 64)[:, ::-1])
        writer.close()

    assert written_after(before, tmp_path / "both.mp4", 13) == 34

    frames = read_video(tmp_path / "both.mp4")
    # not encoded again
    assert np.array_equal(frames[:21], read_video(before))
    assert np.array_equal(frames[21:], read_video(alone))
    times = times_of(tmp_path / "both.mp4")
    assert [time - times[0] for time in times] == list(range(34))
    assert frame_rate(tmp_path / "both.mp4") == 16
    assert (tmp_path / "both.mp4").stat().st_size < before.stat().st_size + alone.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.mp4", "both.mp4", "it's before.mp4"]


def test_equal_videos_give_equal_files(tmp_path: Path) -> None:
    before = write_clip(tmp_path / "before.mp4", 5)
    for name in ("one.mp4", "two.mp4"):
        written_after(before, tmp_path / name, 4)

    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_a_joined_video_can_be_continued(tmp_path: Path) -> None:
    before = write_clip(tmp_path / "before.mp4", 5)
    assert written_after(before, tmp_path / "second.mp4", 4) == 9
    assert written_after(tmp_path / "second.mp4", tmp_path / "third.mp4", 4) == 13

    assert np.array_equal(read_video(tmp_path / "third.mp4")[:9], read_video(tmp_path / "second.mp4"))


@pytest.mark.parametrize("fps", [16, 8])
def test_a_video_of_other_parameters_is_encoded_again(fps: int, tmp_path: Path) -> None:
    write_clip(tmp_path / "made.mp4", 8, fps=fps)
    before = tmp_path / "before.mp4"
    ffmpeg("-i", str(tmp_path / "made.mp4"), "-c:v", "libx264", "-profile:v", "baseline", "-crf", "10", str(before))

    count = written_after(before, tmp_path / "both.mp4", 6)

    frames = read_video(tmp_path / "both.mp4")
    assert count == len(frames) == 8 * 16 // fps + 6
    assert times_of(tmp_path / "both.mp4")[-1] - times_of(tmp_path / "both.mp4")[0] == count - 1
    ends = np.stack([frames[0], frames[-1]])
    wanted = np.stack([read_video(before)[0], moving_square(6, 96, 64)[-1, ::-1]])
    assert np.abs(ends.astype(int) - wanted).mean() < 4


def test_what_is_no_video_leaves_no_file(tmp_path: Path) -> None:
    before = tmp_path / "before.mp4"
    before.write_bytes(b"no video")

    with pytest.raises(EncodingError, match="could not be joined"):
        written_after(before, tmp_path / "both.mp4", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["before.mp4"]
    with pytest.raises(EncodingError, match="No such file"):
        written_after(tmp_path / "none.mp4", tmp_path / "both.mp4", 4)
    assert joining._parameters(before) is None
