"""A video gets a sound that is as long as itself, and is otherwise the same."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import EncodingError
from pipelines.stages.writing.video_writer import Mp4Writer
from tests.support.clips import moving_square, write_clip
from tests.support.sound import RATE, loudest_hertz, packets, samples_of, tone
from tests.support.video import read_video


def with_sound(path: Path, sound: Path, frames: int, fps: int = 16, before: Path | None = None) -> Path:
    with Mp4Writer(path, 96, 64, fps, before, sound) as writer:
        writer.write(moving_square(frames, 96, 64))
        writer.close()
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "it's a tone.wav"
    path.write_bytes(tone(3.0))
    return path


@pytest.mark.parametrize(("frames", "fps"), [(frames, fps) for frames in (1, 9, 81, 120) for fps in (16, 24)])
def test_the_sound_is_exactly_as_long_as_the_video(frames: int, fps: int, sound: Path, tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", frames, fps=fps)
    heard = with_sound(tmp_path / "heard.mp4", sound, frames, fps)

    assert packets(heard) == packets(silent)
    assert np.array_equal(read_video(heard), read_video(silent))
    samples = samples_of(heard)
    assert len(samples) == round(frames / fps * RATE)
    # the tone, and nothing behind it
    assert abs(loudest_hertz(samples[: 3 * RATE]) - 440) < (30 if frames == 1 else 3)
    assert np.abs(samples[3 * RATE + 4096 :]).max(initial=0) < 1e-3
    assert heard.read_bytes().find(b"moov") < heard.read_bytes().find(b"mdat")


def test_a_sound_is_heard_in_stereo_as_it_is(tmp_path: Path) -> None:
    left = tmp_path / "left.wav"
    left.write_bytes(tone(1.0, "left.wav", "-af", "volume=-6dB,pan=stereo|c0=c0"))

    heard = samples_of(with_sound(tmp_path / "heard.mp4", left, 16))

    given = samples_of(left)
    assert np.abs(heard[:, 1]).max() < 1e-3
    assert np.abs(heard[1000:-1000, 0] - given[1000 : len(heard) - 1000, 0]).max() < 0.02


def test_equal_sounds_give_equal_files(sound: Path, tmp_path: Path) -> None:
    files = [with_sound(tmp_path / name, sound, 9).read_bytes() for name in ("one.mp4", "two.mp4")]

    assert files[0] == files[1]


def test_the_sound_of_a_continued_video_is_heard_from_its_beginning(sound: Path, tmp_path: Path) -> None:
    before = with_sound(tmp_path / "before.mp4", sound, 21)
    low = tmp_path / "low.wav"
    low.write_bytes(tone(1.0, hertz=220))

    both = with_sound(tmp_path / "both.mp4", low, 13, before=before)
    silent = tmp_path / "silent.mp4"
    with Mp4Writer(silent, 96, 64, 16, before) as writer:
        writer.write(moving_square(13, 96, 64))
        writer.close()

    assert len(read_video(both)) == 34
    assert len(samples_of(both)) == 34 * RATE // 16
    assert abs(loudest_hertz(samples_of(both)[:RATE]) - 220) < 3
    # the sound of the first one would end with it
    assert len(samples_of(silent)) == 0
    assert packets(both) == packets(silent)


def test_a_file_without_a_sound_leaves_none_behind(tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", 9)

    with pytest.raises(EncodingError, match="The sound could not be written"):
        with_sound(tmp_path / "heard.mp4", silent, 9)

    assert list(tmp_path.iterdir()) == [silent]
