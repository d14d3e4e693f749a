"""Sounds of clients: what of them is kept, and what is refused."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.media.containers import is_audio, is_video
from server.media.limits import MAX_AUDIO_SECONDS, REFUSED, UNAVAILABLE
from tests.support.clips import clip
from tests.support.sound import RATE, loudest_hertz, samples_of, tone


def child(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the child, and what it says."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.media.decode_audio", *arguments],
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return done.returncode, json.loads(done.stdout)


def decoded(folder: Path, content: bytes) -> tuple[dict[str, Any], Path]:
    """What the child says about content, and the file it makes."""
    source, target = folder / "sent", folder / "decoded.flac"
    source.write_bytes(content)
    status, found = child(str(source), str(target))
    assert (status == REFUSED) == ("sentence" in found)
    return found, target


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.ogg", "a.opus", "a.flac"])
def test_a_sound_is_kept_as_it_is_heard(tmp_path: Path, name: str) -> None:
    content = tone(1.0, name)
    (tmp_path / name).write_bytes(content)
    assert (is_audio(tmp_path / name), is_video(tmp_path / name)) == (True, False)

    found, kept = decoded(tmp_path, content)

    assert found["warnings"] == []
    assert found["seconds"] == pytest.approx(1.0, abs=0.06)
    samples = samples_of(kept)
    assert len(samples) == pytest.approx(found["seconds"] * RATE, abs=RATE // 50)
    assert abs(loudest_hertz(samples) - 440) < 3
    assert np.abs(samples).max() == pytest.approx(1 / 8, rel=0.05)
    assert decoded(tmp_path, base64.b64encode(content))[0] == found
    assert decoded(tmp_path, b"data:audio/x;base64," + base64.b64encode(content))[0] == found


def test_the_sides_stay_what_they_are(tmp_path: Path) -> None:
    content = tone(0.5, "a.wav", "-af", "pan=stereo|c0=c0|c1=0.25*c0")

    _, kept = decoded(tmp_path, content)

    left, right = np.abs(samples_of(kept)).max(axis=0)
    assert (left, right) == (pytest.approx(1 / 8, rel=0.02), pytest.approx(1 / 32, rel=0.05))


def test_six_channels_become_two(tmp_path: Path) -> None:
    _, kept = decoded(tmp_path, tone(0.5, "a.wav", "-af", "pan=5.1|c2=c0"))

    assert samples_of(kept).shape == (RATE // 2, 2)
    assert np.abs(samples_of(kept)).max() > 0.03


def test_only_the_beginning_is_kept(tmp_path: Path) -> None:
    found, kept = decoded(tmp_path, tone(MAX_AUDIO_SECONDS + 2.0, "a.mp3"))

    assert found["warnings"] == ["is longer than 60 seconds: only its first 60 are used"]
    assert found["seconds"] == MAX_AUDIO_SECONDS
    assert len(samples_of(kept)) == MAX_AUDIO_SECONDS * RATE


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no sound at all, of no format", "must be a WAV, MP3, M4A, Ogg or FLAC file"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "must be a WAV, MP3, M4A, Ogg or FLAC file"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "must be a WAV, MP3, M4A, Ogg or FLAC file"),
        (b"", "must be a WAV, MP3, M4A, Ogg or FLAC file"),
        (b"ID3" + bytes(1000), "is damaged or not complete, or has a codec that is not read"),
        (b"OggS" + bytes(1000), "is damaged or not complete, or has a codec that is not read"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "is damaged or not complete, or has a codec that is not read"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    found, kept = decoded(tmp_path, content)

    assert found["sentence"] == expected
    assert not kept.exists() or kept.stat().st_size == 0


def test_a_video_without_a_sound_is_refused(tmp_path: Path) -> None:
    assert decoded(tmp_path, clip(64, 64, 5))[0]["sentence"] == "has no sound that can be read"


def test_an_ffmpeg_that_is_missing_is_not_the_senders_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sent").write_bytes(tone())
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))

    assert child(str(tmp_path / "sent"), str(tmp_path / "decoded"))[0] == UNAVAILABLE
