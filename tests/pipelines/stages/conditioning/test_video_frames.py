"""A video file is read frame by frame, at the model's rate and in the generated size, and nothing else is opened."""

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipelines.core.errors import InputVideoError
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.request import VideoParams
from pipelines.stages.conditioning import video_frames
from pipelines.stages.conditioning.video_frames import check_video, count_frames, last_frame, read_frames, video_digest
from tests.support.clips import moving_square, write_clip
from tests.support.video import read_video

GRID = Grid(32, 32, 4)


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)], check=True)


def frames_of(path: Path, geometry: Geometry, fps: int = 16) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in read_frames(path, geometry, fps)])


def test_the_frames_are_those_of_the_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 9)

    frames = frames_of(path, Geometry.fit(96, 64, 9, GRID)).astype(float)

    assert frames.shape == (9, 64, 96, 3)
    assert 10 * np.log10(255**2 / np.mean((frames - moving_square(9, 96, 64)) ** 2)) > 30
    # another reader, with other roundings of colour, finds the same frames
    assert np.abs(frames - read_video(path)).mean() < 2


def test_frames_are_fitted_and_the_last_is_repeated_to_the_generated_length(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 12, width=128, height=64)
    geometry = Geometry.fit(100, 60, 7, GRID)

    frames = frames_of(path, geometry)

    assert frames.shape == (9, 64, 128, 3)
    rows, columns = geometry.crop
    assert (frames[:, rows, : columns.start] == frames[:, rows, columns.start : columns.start + 1]).all()
    assert (frames[7:] == frames[6]).all()
    assert (frames[6] != frames[5]).any()


@pytest.mark.parametrize(("fps", "frames"), [(16, 32), (8, 16), (24, 48)])
def test_the_rate_is_the_models(fps: int, frames: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 60, fps=30)
    geometry = Geometry.fit(96, 64, frames, GRID)

    assert count_frames(path, fps, 1000) == frames
    assert count_frames(path, fps, 10) == 10
    read = frames_of(path, geometry, fps).astype(float)
    assert len(read) == geometry.full_num_frames
    source = moving_square(60, 96, 64)
    # a frame that lies halfway between two may be either
    for index in (0, frames // 2):
        distances = np.abs(source - read[index]).mean(axis=(1, 2, 3))
        assert abs(int(distances.argmin()) - index * 30 / fps) <= 1
    with pytest.raises(
        InputVideoError, match=f"^The input video has {frames} frames at {fps} a second, and num_frames"
    ):
        frames_of(path, Geometry.fit(96, 64, frames + 1, GRID), fps)


def test_a_frame_is_upright_and_as_wide_as_it_is_shown(tmp_path: Path) -> None:
    clip, turned, wide = write_clip(tmp_path / "clip.mp4", 5), tmp_path / "turned.mp4", tmp_path / "wide.mp4"
    ffmpeg("-display_rotation", "90", "-i", clip, "-c", "copy", turned)
    ffmpeg("-i", clip, "-vf", "scale=48:64,setsar=2", wide)
    geometry = Geometry.fit(96, 64, 5, GRID)

    upright = frames_of(turned, Geometry.fit(64, 96, 5, GRID)).astype(float)
    shown = frames_of(wide, geometry).astype(float)

    plain = frames_of(clip, geometry).astype(float)
    assert np.abs(np.rot90(plain, axes=(1, 2)) - upright).mean() < 2
    assert np.abs(plain - shown).mean() < 5


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "mov", "gif"])
def test_other_files_are_read(suffix: str, tmp_path: Path) -> None:
    clip, other = write_clip(tmp_path / "clip.mp4", 9), tmp_path / f"clip.{suffix}"
    codec = {"webm": "libvpx", "avi": "mpeg4", "gif": "gif"}.get(suffix, "copy")
    ffmpeg("-i", clip, "-c:v", codec, other)

    assert count_frames(other, 16, 100) in (9, 10)
    assert len(frames_of(other, Geometry.fit(96, 64, 9, GRID))) == 9


def refused(path: Path) -> str:
    with pytest.raises(InputVideoError) as read:
        frames_of(path, Geometry.fit(96, 64, 5, GRID))
    with pytest.raises(InputVideoError) as counted:
        count_frames(path, 16, 100)
    assert str(path.parent) not in f"{read.value} {counted.value}"
    assert str(read.value) == str(counted.value)
    return str(read.value)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    text, empty, sound = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "sound.mp4"
    text.write_text("no video " * 100)
    empty.touch()
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", sound)

    assert refused(text).startswith("The input video cannot be read: ")
    assert refused(empty).startswith("The input video cannot be read: ")
    assert refused(sound) == "The input video's file has no video in it."
    with pytest.raises(InputVideoError, match="The input video cannot be read: No such file or directory"):
        video_digest(tmp_path / "missing.mp4")


def test_a_file_cannot_name_others(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 9)
    lists = {
        "list.mp4": f"ffconcat version 1.0\nfile '{clip.name}'\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        assert refused(tmp_path / name).startswith("The input video cannot be read: ")
    # without the limit it would be read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_frames, "FORMATS", (*video_frames.FORMATS, "concat"))
        assert count_frames(tmp_path / "list.mp4", 16, 100) == 9


def test_a_frame_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", 5)
    monkeypatch.setattr(video_frames, "MAX_PIXELS", 96 * 64 - 1)

    assert refused(path).startswith("The input video cannot be read: ")


def test_a_file_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", 60)
    monkeypatch.setattr(video_frames, "MAX_CPU_SECONDS", 1)

    assert count_frames(path, 16, 100) == 60
    with pytest.raises(InputVideoError, match="takes too much time or memory to decode"):
        count_frames(path, 10**7, 10**9)


def test_the_server_can_import_it() -> None:
    code = "import sys, pipelines.stages.conditioning.video_frames; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_end_makes_a_video_shorter(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])

    count = count_frames(path, 16, 100)

    assert 5 < count < 60
    assert len(frames_of(path, Geometry.fit(96, 64, 5, GRID))) == 5
    with pytest.raises(InputVideoError, match=f"^The input video has {count} frames at 16 a second"):
        frames_of(path, Geometry.fit(96, 64, 60, GRID))


def test_ffmpeg_ends_with_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    path = write_clip(tmp_path / "clip.mp4", 60, width=640, height=480)
    started.clear()
    geometry = Geometry.fit(640, 480, 60, GRID)

    with closing(read_frames(path, geometry, 16)) as frames:
        next(frames)
        assert started[0].poll() is None
    with pytest.raises(KeyboardInterrupt), closing(read_frames(path, geometry, 16)) as frames:
        next(frames)
        raise KeyboardInterrupt

    assert [process.returncode is not None for process in started] == [True, True]


def test_a_file_that_is_not_the_requests_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 5)
    params = VideoParams("an ox", video=video_digest(path))

    check_video(path, params, is_taken=True)
    check_video(None, VideoParams("an ox"), is_taken=False)
    with pytest.raises(InputVideoError, match="is not the request's"):
        check_video(path, replace(params, video="0" * 64), is_taken=True)
    with pytest.raises(InputVideoError, match="The request's video is missing"):
        check_video(None, params, is_taken=True)
    with pytest.raises(InputVideoError, match="The request has no video"):
        check_video(path, VideoParams("an ox"), is_taken=True)
    with pytest.raises(InputVideoError, match="This model takes no video"):
        check_video(path, params, is_taken=False)


@pytest.mark.parametrize("frames", [1, 5, 40])
def test_the_last_frame_is_found(frames: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames)

    last = np.asarray(last_frame(path)).astype(int)

    assert np.abs(last - read_video(path)[-1]).mean() < 2
    if frames > 1:
        assert np.abs(last - read_video(path)[-2]).max() > 50


def test_the_last_frame_of_few_a_second_is_found(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    ffmpeg("-r", "0.25", "-i", str(write_clip(tmp_path / "clip.mp4", 3)), str(path))

    assert np.abs(np.asarray(last_frame(path)).astype(int) - read_video(path)[-1]).mean() < 2
