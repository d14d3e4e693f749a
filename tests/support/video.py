"""Reads videos with ffmpeg, independently of the code that wrote them."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt


def read_video(source: Path | bytes) -> npt.NDArray[np.uint8]:
    """All frames of an MP4, (frames, height, width, 3), RGB."""
    # each frame is a PPM image, whose header has the size
    images = _decode(source, "-f", "image2pipe", "-c:v", "ppm")
    _, size, _ = images.split(b"\n", 3)[:3]
    width, height = map(int, size.split())
    header = len(b"P6\n" + size + b"\n255\n")
    frames = np.frombuffer(images, np.uint8).reshape(-1, header + width * height * 3)
    return frames[:, header:].reshape(-1, height, width, 3)


def psnr(one: Path | bytes, other: Path | bytes) -> float:
    """Peak signal-to-noise ratio of two videos in dB; infinite if they are equal."""
    frames, others = (read_video(source).astype(np.float64) for source in (one, other))
    error = float(np.mean((frames - others) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def frame_rate(source: Path | bytes) -> float:
    """Frames per second, from the file."""
    header = _decode(source, "-f", "yuv4mpegpipe", "-frames:v", "1").split(b"\n", 1)[0]
    rate = next(field[1:] for field in header.split() if field.startswith(b"F"))
    frames, seconds = map(int, rate.split(b":"))
    return frames / seconds


def packets(source: Path | bytes) -> str:
    """A line for each packet of all streams: its stream, times, size and checksum. Tags of the file do not count."""
    return _decode(source, "-map", "0", "-c", "copy", "-f", "framemd5").decode()


def _decode(source: Path | bytes, *output: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror"]
    # from a pipe a file cannot be read whose index is at its end
    named, given = ("pipe:0", source) if isinstance(source, bytes) else (str(source), b"")
    return subprocess.run(
        [*command, "-i", named, *output, "pipe:1"], input=given, stdout=subprocess.PIPE, check=True
    ).stdout
