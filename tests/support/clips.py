"""Short videos for tests: drawn, or made by ffmpeg."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
import numpy as np

from pipelines.core.progress import Frames
from pipelines.stages.writing.video_writer import Mp4Writer


def moving_square(frames: int, width: int, height: int) -> Frames:
    """A light square that crosses a dark gradient, (frames, height, width, 3): each frame differs from the others."""
    rows, columns = np.mgrid[0:height, 0:width]
    background = np.stack([columns * 100 // width, rows * 100 // height, rows * 0 + 40], axis=2).astype(np.uint8)
    video = np.repeat(background[None], frames, axis=0)
    side = height // 3
    for index in range(frames):
        left = (width - side) * index // max(1, frames - 1)
        video[index, side : 2 * side, left : left + side] = 220
    return video


def write_clip(path: Path, frames: int, width: int = 96, height: int = 64, fps: int = 16) -> Path:
    """Write `moving_square` as an MP4 file."""
    with Mp4Writer(path, width, height, fps) as writer:
        writer.write(moving_square(frames, width, height))
        writer.close()
    return path


def ffmpeg(*arguments: str) -> None:
    """Run ffmpeg quietly."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-nostdin", "-loglevel", "error", *arguments]
    subprocess.run(command, check=True, timeout=120)


@cache
def clip(
    width: int = 96, height: int = 64, num_frames: int = 20, fps: int = 16, name: str = "clip.mp4", *extra: str
) -> bytes:
    """A video of a moving test picture; the container follows from its name, `extra` are options of ffmpeg."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        picture = f"testsrc2=size={width}x{height}:rate={fps}"
        ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", str(num_frames), "-pix_fmt", "yuv420p", *extra, str(path))
        return path.read_bytes()
