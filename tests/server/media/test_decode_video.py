"""Videos of clients: what of them is kept, and what is refused."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.stages.conditioning.video_frames import count_frames
from server.media.decode_video import KEPT_PIXELS, MAX_PIXELS
from server.media.limits import MAX_SECONDS, REFUSED, UNAVAILABLE
from server.service.requests.inputs import InputVideo
from tests.support.clips import clip, ffmpeg
from tests.support.video import psnr, read_video


def decoded(folder: Path, content: bytes) -> tuple[dict[str, Any], Path]:
    """What the child says about content, and the file it makes."""
    source, target = folder / "sent", folder / "decoded"
    source.write_bytes(content)
    status, found = child(str(source), str(target))
    assert (status == REFUSED) == ("sentence" in found)
    return found, target


def child(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the child, and what it says."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.media.decode_video", *arguments],
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return done.returncode, json.loads(done.stdout)


def sentence(folder: Path, content: bytes) -> str:
    found, target = decoded(folder, content)
    assert not target.exists() or "sides" in found["sentence"]
    return str(found["sentence"])


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.webm", "a.mkv"])
def test_a_video_is_kept_as_it_looks(tmp_path: Path, name: str) -> None:
    content = clip(96, 64, 20, 16, name)
    (tmp_path / name).write_bytes(content)

    found, kept = decoded(tmp_path, content)

    assert {name: found[name] for name in ("width", "height", "num_frames", "fps", "warnings")} == {
        "width": 96,
        "height": 64,
        "num_frames": 20,
        "fps": 16,
        "warnings": [],
    }
    assert re.fullmatch("[0-9a-f]{64}", found["digest"])
    assert read_video(kept).shape == (20, 64, 96, 3)
    assert psnr(tmp_path / name, kept) > 34


def test_a_video_in_base64_gives_the_same_file(tmp_path: Path) -> None:
    content = clip()
    encoded = base64.b64encode(content)

    plain, *others = (decoded(tmp_path, each)[0] for each in (content, encoded, b"data:video/mp4;base64," + encoded))

    assert others == [plain, plain]


def test_a_turned_video_is_kept_upright(tmp_path: Path) -> None:
    source, turned = tmp_path / "a.mp4", tmp_path / "turned.mp4"
    source.write_bytes(clip(96, 64))
    ffmpeg("-display_rotation", "90", "-i", str(source), "-c", "copy", str(turned))

    found, kept = decoded(tmp_path, turned.read_bytes())

    assert (found["width"], found["height"]) == (64, 96)
    upright = np.rot90(read_video(source)[0])
    assert np.abs(read_video(kept)[0].astype(float) - upright).mean() < 6


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    found, _ = decoded(tmp_path, clip(96, 64, 5, 16, "a.mp4", "-vf", "setsar=2"))

    assert (found["width"], found["height"]) == (192, 64)


def test_a_large_and_long_video_is_kept_smaller(tmp_path: Path) -> None:
    found, _ = decoded(tmp_path, clip(1920, 1080, 3, 16, "a.mp4", "-preset", "ultrafast"))
    assert (found["width"], found["height"]) == (1280, 720)
    assert found["width"] * found["height"] <= KEPT_PIXELS

    found, _ = decoded(tmp_path, clip(32, 32, 25 * 12, 25))
    assert (found["num_frames"], found["fps"]) == (25 * MAX_SECONDS, 25)
    assert found["warnings"] == ["is longer than 10 seconds: only its first 10 are used"]

    found, _ = decoded(tmp_path, clip(32, 32, 120, 120))
    assert (found["num_frames"], found["fps"]) == (60, 60)


def test_nothing_of_the_sender_stays_in_the_file(tmp_path: Path) -> None:
    content = clip(96, 64, 5, 16, "a.mp4", "-metadata", "title=private", "-metadata", "location=+48.1+011.5/")
    assert b"private" in content

    _, kept = decoded(tmp_path, content)

    assert b"private" not in kept.read_bytes()
    assert b"+48.1" not in kept.read_bytes()


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    whole = clip(96, 64, 20)
    silent = tmp_path / "sound.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", "1", str(silent))
    kinds = "must be an MP4, MOV, WebM or Matroska file"

    assert sentence(tmp_path, b"") == kinds
    assert sentence(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(100)) == kinds
    assert sentence(tmp_path, b"#EXTM3U\nfile:///etc/passwd\n") == kinds
    assert sentence(tmp_path, b"ffconcat version 1.0\nfile /etc/passwd\n") == kinds
    assert sentence(tmp_path, whole[:1000]).startswith("is damaged or not complete")
    assert sentence(tmp_path, whole[:40] + bytes(5000)).startswith("is damaged or not complete")
    assert sentence(tmp_path, silent.read_bytes()) == "has no picture that can be read"
    assert sentence(tmp_path, b"https://example.com/" + b"a" * 5000).startswith("must be a video, or a URL of at most")


def test_sides_and_pixels_have_limits(tmp_path: Path) -> None:
    large = clip(4608, 2304, 2, 5, "a.mp4", "-preset", "ultrafast")
    assert MAX_PIXELS < 4608 * 2304
    assert sentence(tmp_path, large) == "must have at most 9.4 megapixels, not 4608x2304"

    assert sentence(tmp_path, clip(512, 32, 2)) == "must have sides of a ratio of at most 8:1, not 512x32"


def test_changed_files_end_in_a_sentence_or_a_video(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for name in ("a.mp4", "a.mkv"):
        whole = bytearray(clip(96, 64, 8, 16, name))
        for _ in range(6):
            changed = bytearray(whole)
            for at in rng.integers(len(changed), size=12):
                changed[at] = rng.integers(256)
            found, _ = decoded(tmp_path, bytes(changed))
            assert "sentence" in found or found["num_frames"] >= 1


@pytest.mark.parametrize(
    ("rate", "frames"),
    [("24", 48), ("25", 50), ("30000/1001", 82), ("24000/1001", 30), ("0.6249", 4), ("60", 7), ("16", 9), ("10", 1)],
)
def test_its_length_at_another_rate_is_known(rate: str, frames: int, tmp_path: Path) -> None:
    source = tmp_path / "sent.mp4"
    ffmpeg("-r", rate, "-f", "lavfi", "-i", "testsrc2=size=32x32", "-r", rate, "-frames:v", str(frames), str(source))
    found, kept = decoded(tmp_path, source.read_bytes())
    video = InputVideo(**{name: value for name, value in found.items() if name != "warnings"})

    for fps in (16, 24):
        assert video.frames_at(fps) <= count_frames(kept, fps, 1000) <= video.frames_at(fps) + 1


def test_a_video_of_this_server_is_described_as_it_is(tmp_path: Path) -> None:
    found, kept = decoded(tmp_path, clip())

    assert child(str(kept)) == (0, found)


def test_a_full_disk_is_not_the_senders_fault(tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(clip())

    status, found = child(str(tmp_path / "sent"), "/dev/full")

    assert (status, found) == (UNAVAILABLE, {"sentence": "No space left on device"})


def test_an_ffmpeg_that_is_missing_is_not_the_senders_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sent").write_bytes(clip())
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))

    assert child(str(tmp_path / "sent"), str(tmp_path / "decoded"))[0] == UNAVAILABLE
