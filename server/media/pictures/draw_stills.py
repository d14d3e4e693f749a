"""Draws the still pictures of a finished video, in a process of its own.

python -P -m server.media.pictures.draw_stills INPUT THUMBNAIL SPRITESHEET   # prints the number of frames as JSON

INPUT is an MP4 file that a worker has written. The other two become WebP files. One frame at a time is in memory,
however long the video is.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image

from pipelines.stages.writing.ffmpeg import QUIET
from server.media.child_ffmpeg import THREADS, ffmpeg
from server.media.limits import RefusedInputError, run
from server.media.pictures.stills_layout import (
    COLUMNS,
    ROWS,
    THUMBNAIL_SIDE,
    TILE_SIDE,
    fitted,
    thumbnail_frame,
    tile_frames,
)

CPU_SECONDS = 60
"""Limit for the child and for ffmpeg each, in processor time."""

_QUALITY = 80
# the same bytes on every processor
_SCALER = "flags=lanczos+accurate_rnd+full_chroma_int+bitexact"
_SHARE = f"min(1\\,{THUMBNAIL_SIDE}/max(iw\\,ih))"
_SIDES = ":".join(f"{name}=max(1\\,round({side}*{_SHARE}))" for name, side in (("w", "iw"), ("h", "ih")))


def draw(video: Path, thumbnail: Path, spritesheet: Path) -> dict[str, Any]:
    """Draw both pictures of a video file. Raises RefusedInputError for one without frames, or OSError."""
    count = _count(video)
    wanted, tiles = thumbnail_frame(count), tile_frames(count)
    sheet: Image.Image | None = None
    for number, frame in _frames(video, sorted({wanted, *tiles})):
        if number == wanted:
            _save(frame, thumbnail)
        tile = frame.resize(fitted(*frame.size, TILE_SIDE), Image.Resampling.LANCZOS)
        sheet = sheet or Image.new("RGB", (COLUMNS * tile.width, ROWS * tile.height))
        for place in (place for place, shown in enumerate(tiles) if shown == number):
            sheet.paste(tile, (place % COLUMNS * tile.width, place // COLUMNS * tile.height))
    if sheet is None:
        raise RefusedInputError("has no frames")
    _save(sheet, spritesheet)
    return {"frames": count}


def _save(picture: Image.Image, path: Path) -> None:
    picture.save(path, "WEBP", quality=_QUALITY, method=4)


def _count(video: Path) -> int:
    """The number of a video's frames, without decoding them. Raises RefusedInputError."""
    with _ffmpeg(video, "-c", "copy", "-f", "null", "-progress", "pipe:1", "-") as said:
        counts = [int(line.removeprefix(b"frame=")) for line in said if line.startswith(b"frame=")]
    if not counts or counts[-1] < 1:
        raise RefusedInputError("has no frames")
    return counts[-1]


def _frames(video: Path, numbers: list[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames of these numbers in their order, each with its number, in the size of a thumbnail.

    For those that are missing at the end of a damaged file the last one is repeated.
    """
    chosen = "+".join(f"eq(n\\,{number})" for number in numbers)
    filters = f"select={chosen},scale={_SIDES}:{_SCALER},setsar=1,format=rgb24"
    output = ("-vf", filters, "-frames:v", str(len(numbers)), "-fps_mode", "passthrough")
    with _ffmpeg(video, *output, "-f", "image2pipe", "-c:v", "ppm", "-") as pictures:
        frame: Image.Image | None = None
        for number in numbers:
            frame = _next(pictures) or frame
            if frame is not None:
                yield number, frame


def _next(pictures: IO[bytes]) -> Image.Image | None:
    """The next of the pictures that ffmpeg writes; None at their end."""
    # the head of each is b"P6\n<width> <height>\n255\n"
    if not pictures.readline():
        return None
    width, height = map(int, pictures.readline().split())
    pictures.readline()
    return Image.frombytes("RGB", (width, height), pictures.read(width * height * 3))


@contextmanager
def _ffmpeg(video: Path, *output: str) -> Iterator[IO[bytes]]:
    """Run ffmpeg on a video and give its output, all of which is to be read. Raises RefusedInputError if it fails."""
    command = [
        *(ffmpeg(), *QUIET, "-protocol_whitelist", "file,pipe", "-threads", THREADS),
        *("-f", "mov", "-i", f"file:{video.absolute()}", "-map", "0:v:0", *output),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RefusedInputError(f"cannot be decoded: ffmpeg ended with status {process.returncode}")


def main() -> None:
    """Draw the pictures of one video."""
    video, thumbnail, spritesheet = map(Path, sys.argv[1:4])
    # a finished video waits for it, and it is short
    run(lambda: draw(video, thumbnail, spritesheet), CPU_SECONDS, niceness=0)


if __name__ == "__main__":
    main()
