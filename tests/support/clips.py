"""Videos that tests send: made by ffmpeg."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg


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
