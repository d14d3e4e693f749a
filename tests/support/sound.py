"""Sounds for tests: made by ffmpeg, and read back as samples."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from tests.support.clips import ffmpeg

RATE = 48_000


@cache
def tone(seconds: float = 3.0, name: str = "tone.wav", *extra: str, hertz: int = 440) -> bytes:
    """A sine tone; the container follows from its name, `extra` are options of ffmpeg."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        ffmpeg("-f", "lavfi", "-i", f"sine=frequency={hertz}:duration={seconds}:sample_rate=44100", *extra, str(path))
        return path.read_bytes()


def samples_of(path: Path, rate: int = RATE) -> npt.NDArray[np.float32]:
    """What is heard of a file, (samples, 2) at `rate`; without a sound (0, 2)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:a?", "-ac", "2"]
    command += ["-ar", str(rate), "-f", "f32le", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return np.frombuffer(done.stdout, np.float32).reshape(-1, 2)


def loudest_hertz(samples: npt.NDArray[np.float32]) -> float:
    """The frequency at which most of a sound's energy is."""
    spectrum = np.abs(np.fft.rfft(samples.mean(axis=1)))
    return float(np.fft.rfftfreq(len(samples), 1 / RATE)[spectrum.argmax()])


def packets(path: Path) -> list[str]:
    """A line for each packet of a file's video: its times, size and checksum."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:v", "-c", "copy"]
    listed = subprocess.run([*command, "-f", "framemd5", "-"], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [line for line in listed.splitlines() if not line.startswith("#")]
