"""Reads the video that another one is made from: its frames at the model's rate, one after another, through ffmpeg.

The file comes from a client. ffmpeg may open nothing besides it: no network, no playlist that names other files.
"""

import signal
import subprocess
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

from pipelines.core.errors import InputVideoError
from pipelines.core.files import sha256_of
from pipelines.core.geometry import Geometry
from pipelines.core.request import VideoParams
from pipelines.stages.conditioning.images import fitted
from pipelines.stages.writing.ffmpeg import QUIET, find_ffmpeg, log_file, read_log

FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "gif")
"""ffmpeg's names of the file formats that are read. "mov" is MP4 as well, "matroska" WebM."""

_TAIL_SECONDS = 1
_TAIL_FRAMES = 1000
"""So much is read of a video whose last frame is asked for."""

MAX_PIXELS = 8192 * 4320
"""Limit of the pixels in a frame of the file: one frame at a time is in memory."""

MAX_CPU_SECONDS = 300
"""Limit of the time for which a processor decodes one file: a small one may have very many frames."""

_SCALER = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"
"""How colours are converted: to the same bytes on every processor."""


def video_digest(path: Path) -> str:
    """Return what identifies a video: the SHA-256 of its file, as hexadecimal digits. Raises InputVideoError."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputVideoError(f"The input video cannot be read: {error.strerror or error}.") from error


def check_extended(path: Path | None, params: VideoParams) -> None:
    """Raise InputVideoError unless a file is that of the video that a request extends."""
    if path is None and params.extends is None:
        return
    if path is None or params.extends is None:
        raise InputVideoError(
            "The video to extend is missing." if path is None else "The request extends no video, and one is given."
        )
    if video_digest(path) != params.extends:
        raise InputVideoError("The video to extend is not the request's: its file may be damaged.")


def check_video(path: Path | None, params: VideoParams, *, is_taken: bool) -> None:
    """Raise InputVideoError unless a video file is the one that a request names, and the model takes one."""
    if path is None and params.video is None:
        return
    if path is None or params.video is None:
        raise InputVideoError("The request's video is missing." if path is None else "The request has no video.")
    if not is_taken:
        raise InputVideoError("This model takes no video: it cannot make one from another.")
    if video_digest(path) != params.video:
        raise InputVideoError("The video is not the request's: its file may be damaged.")


def last_frame(path: Path) -> Image.Image:
    """Return the last frame of a video. Raises InputVideoError."""
    # the whole of a long video would take long
    for begin in (("-sseof", f"-{_TAIL_SECONDS}"), ()):
        with closing(_decoded(path, None, _TAIL_FRAMES, begin)) as decoded:
            if last := deque(decoded, maxlen=1):
                return last[0]
    raise InputVideoError("The video to extend has no frames.")


def count_frames(path: Path, fps: int, most: int) -> int:
    """Return how many frames a video has at `fps` frames a second; `most` if it has more.

    The file is decoded up to there, but no frame leaves ffmpeg. Raises InputVideoError if it cannot be read.
    """
    count = 0
    with _ffmpeg(path, f"fps={fps}", most, "-f", "null", "-progress", "pipe:1", "-") as lines:
        for line in lines:
            name, _, value = line.partition(b"=")
            count = int(value) if name == b"frame" else count
    return count


def read_frames(path: Path, geometry: Geometry, fps: int) -> Generator[Image.Image, None, None]:
    """Yield the frames of a video at `fps` frames a second as RGB images of the size and length that is generated.

    Each is fitted as an image is. Behind the delivered length the last frame is repeated; the file's other frames are
    not read. Raises InputVideoError if the file cannot be read or is too short.
    """
    count = 0
    with closing(_decoded(path, fps, geometry.num_frames)) as decoded:
        for frame in decoded:
            image = fitted(frame, geometry)
            count += 1
            yield image
    check_length(count, fps, geometry.num_frames)
    for _ in range(geometry.num_frames, geometry.full_num_frames):
        yield image


def check_length(count: int, fps: int, num_frames: int) -> None:
    """Raise InputVideoError if a video that has `count` frames at `fps` is too short for `num_frames`."""
    if count < num_frames:
        frames = "1 frame" if count == 1 else f"{count} frames"
        raise InputVideoError(
            f"The input video has {frames} at {fps} a second, and num_frames is {num_frames}. "
            f"Give a longer video, or ask for at most {frames}."
        )


def _decoded(path: Path, fps: int | None, most: int, begin: Sequence[str] = ()) -> Generator[Image.Image, None, None]:
    """Yield the first `most` frames in the file's own size, with square pixels, and upright.

    They are at a rate of `fps`, or (None) the file's own. `begin` are ffmpeg's arguments for where to begin.
    """
    rate = "" if fps is None else f"fps={fps},"
    # a pixel may be wider than high (a file can claim any ratio): a frame is as wide as it is shown
    filters = f"{rate}scale=trunc(iw*clip(sar\\,1/4\\,4)+0.5):ih:{_SCALER},setsar=1,format=rgb24"
    with _ffmpeg(path, filters, most, "-f", "image2pipe", "-c:v", "ppm", "-", begin=begin) as output:
        # the head of each picture is b"P6\n<width> <height>\n255\n"
        while output.readline():
            width, height = map(int, output.readline().split())
            output.readline()
            pixels = output.read(width * height * 3)
            if len(pixels) < width * height * 3:
                break
            yield Image.frombytes("RGB", (width, height), pixels)


@contextmanager
def _ffmpeg(path: Path, filters: str, most: int, *output: str, begin: Sequence[str] = ()) -> Iterator[IO[bytes]]:
    """Run ffmpeg on a video and give its output; end it at the end of the context, whatever it does.

    Raises InputVideoError if it fails by itself.
    """
    command = [
        *(find_ffmpeg(), *QUIET),
        *("-protocol_whitelist", "file,pipe", "-format_whitelist", ",".join(FORMATS), "-max_pixels", str(MAX_PIXELS)),
        *("-timelimit", str(MAX_CPU_SECONDS)),
        *(*begin, "-i", f"file:{path.absolute()}", "-map", "0:V:0", "-frames:v", str(most), "-vf", filters),
        *("-fps_mode", "passthrough", *output),
    ]
    with (
        log_file() as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            assert process.stdout is not None
            yield process.stdout
            # the output is at its end
            if process.wait() != 0:
                raise _failure(path, read_log(log), process.returncode)
        finally:
            process.kill()


def _failure(path: Path, lines: list[str], status: int) -> InputVideoError:
    if any("matches no streams" in line for line in lines):
        return InputVideoError("The input video's file has no video in it.")
    # at the limit of its time ffmpeg ends without a word, and the system kills it if that takes a second
    if status == -signal.SIGKILL or not lines:
        return InputVideoError(
            "The input video takes too much time or memory to decode. Give one with fewer or smaller frames."
        )
    reason = lines[-1].replace(str(path.absolute()), "the file")
    return InputVideoError(f"The input video cannot be read: {reason}")
