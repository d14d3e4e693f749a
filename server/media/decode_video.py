"""Turns the video of a client into one that this server made itself, in a process of its own.

python -P -m server.media.decode_video INPUT OUTPUT   # prints digest, sides, length and warnings as JSON
python -P -m server.media.decode_video INPUT           # the same of a video that this server made

INPUT has the file itself, or its base64, which may be a data URL. OUTPUT becomes an MP4 file with H.264 and without
sound: upright, with square pixels, and no larger and no longer than a model could use. ffmpeg reads INPUT through a
descriptor and may open no other file or address, by the demuxer of the container that the first bytes say.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import imageio_ffmpeg

from pipelines.core.files import sha256_of
from pipelines.stages.writing.ffmpeg import QUIET
from server.media.child_ffmpeg import THREADS, ffmpeg, refuse, sent_file
from server.media.child_ffmpeg import decode as run_ffmpeg
from server.media.containers import container_of
from server.media.limits import MAX_SECONDS, VIDEO_BYTES, VIDEO_FORMATS, RefusedInputError, run

MAX_RATE = 60
"""Frames a second that are kept, at most."""

MAX_PIXELS = 4096 * 2304
"""Limit of a frame, checked before it is decoded."""

KEPT_PIXELS = 1280 * 720
"""Larger frames are made smaller: no model makes more pixels."""

MAX_RATIO = 8
"""Limit of the longer side by the shorter one."""

CPU_SECONDS = 150
"""Limit for the child and for ffmpeg each, in processor time."""

_CODECS = "h264,hevc,mpeg4,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,libaom-av1,mjpeg,prores,prores_raw"
_CRF = "8"
"""The quality of the file that is kept: no loss is seen."""

_HDR = re.compile(r"bt2020|smpte2084|arib-std-b67")
_STREAM = re.compile(r"Stream #0:\d+.*?: Video: .*?, (\d{1,6})x(\d{1,6})")
_DURATION = re.compile(r"Duration: (\d+):(\d+):(\d+\.\d+)")


def decode(content: IO[bytes], container: str, target: Path) -> dict[str, Any]:
    """Make a video of the file `content`, and return what is known of it. Raises RefusedInputError."""
    # of the frame as it is shown: turned, and with square pixels
    width, height = "iw*sar", "ih"
    share = f"min(1\\,sqrt({KEPT_PIXELS}/({width}*{height})))"
    sides = ":".join(f"{name}=max(2\\,trunc({side}*{share}/2)*2)" for name, side in (("w", width), ("h", height)))
    said, status = run_ffmpeg(
        *(content, container, _CODECS, ["-max_pixels", str(MAX_PIXELS)]),
        [
            *("-map", "0:v:0", "-t", str(MAX_SECONDS), "-frames:v", str(MAX_SECONDS * MAX_RATE)),
            "-vf",
            f"fps=fps=min(source_fps\\,{MAX_RATE}),scale={sides}:out_color_matrix=bt709:out_range=tv,setsar=1,"
            "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv,format=yuv420p",
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", _CRF, "-threads", THREADS),
            *("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
            *("-movflags", "+faststart", "-f", "mp4", str(target)),
        ],
    )
    if status != 0 or not target.is_file():
        refuse(said, status)
        raise RefusedInputError(_reason(said))
    return _described(said, target)


def _reason(said: str) -> str:
    """Return why ffmpeg made no video, from what it said."""
    if (stream := _STREAM.search(said)) and int(stream[1]) * int(stream[2]) > MAX_PIXELS:
        return f"must have at most {MAX_PIXELS / 10**6:.1f} megapixels, not {stream[1]}x{stream[2]}"
    if "Input #0" in said and "Video:" not in said:
        return "has no picture that can be read"
    return "is damaged or not complete, or has a codec that is not read"


def _described(said: str, target: Path) -> dict[str, Any]:
    """Return the facts of a video that was made, and what its sender should know about it."""
    width, height, rate = _shape(target)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise RefusedInputError(f"must have sides of a ratio of at most {MAX_RATIO}:1, not {width}x{height}")
    counted, _ = imageio_ffmpeg.count_frames_and_secs(str(target))
    before, *_ = said.partition("Output #0")
    warnings = []
    if (found := _DURATION.search(before)) and _seconds(found) > MAX_SECONDS + 1 / MAX_RATE:
        warnings.append(f"is longer than {MAX_SECONDS} seconds: only its first {MAX_SECONDS} are used")
    if _HDR.search(before):
        warnings.append("has HDR colours, which are read as those of SDR: they may look pale")
    return {
        "digest": sha256_of(target),
        "width": width,
        "height": height,
        "num_frames": counted,
        "fps": rate,
        "warnings": warnings,
    }


def _shape(path: Path) -> tuple[int, int, float]:
    """Return the width, the height and the frames a second of a video; ffmpeg's messages round the latter."""
    command = [ffmpeg(), *QUIET, "-i", str(path), "-frames:v", "1", "-f", "yuv4mpegpipe", "-"]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    fields = {field[:1]: field[1:] for field in made.split(b"\n", 1)[0].split()[1:]}
    if not {b"W", b"H", b"F"} <= fields.keys():
        # an empty video
        raise RefusedInputError("has no picture that can be read")
    frames, seconds = fields[b"F"].split(b":")
    return int(fields[b"W"]), int(fields[b"H"]), int(frames) / int(seconds)


def _seconds(found: re.Match[str]) -> float:
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def main() -> None:
    """Decode one file."""
    source, *targets = map(Path, sys.argv[1:3])

    def work() -> dict[str, Any]:
        if not targets:
            return _described("", source)
        target = targets[0]
        with sent_file(source, target, "a video", container_of, VIDEO_BYTES, VIDEO_FORMATS) as (file, container):
            return decode(file, container, target)

    run(work, CPU_SECONDS)


if __name__ == "__main__":
    main()
