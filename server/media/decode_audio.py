"""Turns the sound of a client into one that this server made itself, in a process of its own.

python -P -m server.media.decode_audio INPUT OUTPUT   # prints digest, length and warnings as JSON

INPUT has the file itself, or its base64, which may be a data URL. OUTPUT becomes a FLAC file in stereo, no longer than
a video could use. ffmpeg reads INPUT through a descriptor and may open no other file or address, by the demuxer of the
container that the first bytes say.
"""

import re
import sys
from pathlib import Path
from typing import IO, Any

from pipelines.core.files import sha256_of
from pipelines.stages.writing.muxing import RATE
from server.media.child_ffmpeg import decode, refuse, sent_file
from server.media.containers import audio_container_of
from server.media.limits import AUDIO_BYTES, AUDIO_FORMATS, MAX_AUDIO_SECONDS, RefusedInputError, run

_CODECS = (
    "pcm_s16le,pcm_s24le,pcm_s32le,pcm_u8,pcm_f32le,pcm_f64le,pcm_s16be,pcm_alaw,pcm_mulaw,"
    "mp3,mp3float,aac,alac,flac,vorbis,libvorbis,opus,libopus"
)
_STEREO = "aformat=channel_layouts=stereo"
_BOTH_SIDES = "pan=stereo|c0=c0|c1=c0"
"""One channel, as loud as it is: ffmpeg itself would make it 3 dB softer."""

_FIRST = re.compile(r"Stream #0:\d+[^\n]*: Audio: ([^\n]*)")
_MONO = re.compile(r", \d+ Hz, (?:mono|1 channels)")
_MUXED = re.compile(r"time=(\d+):(\d+):(\d+\.\d+)")
_DURATION = re.compile(r"Duration: (\d+):(\d+):(\d+\.\d+)")


def make(content: IO[bytes], container: str, target: Path) -> dict[str, Any]:
    """Make a sound of the file `content`, and return what is known of it. Raises RefusedInputError or OSError."""
    said, status = _decode(content, container, target, _STEREO)
    first = _FIRST.search(said.partition("Output #0")[0])
    if status == 0 and first is not None and _MONO.search(first[1]):
        content.seek(0)
        said, status = _decode(content, container, target, _BOTH_SIDES)
    if status != 0 or not target.is_file():
        refuse(said, status)
        if "Input #0" in said and "Audio:" not in said:
            raise RefusedInputError("has no sound that can be read")
        raise RefusedInputError("is damaged or not complete, or has a codec that is not read")
    seconds = _seconds(_MUXED.findall(said))
    if not seconds:
        raise RefusedInputError("has no sound that can be read")
    before, *_ = said.partition("Output #0")
    warnings = []
    if _seconds(_DURATION.findall(before)) > MAX_AUDIO_SECONDS:
        warnings.append(f"is longer than {MAX_AUDIO_SECONDS} seconds: only its first {MAX_AUDIO_SECONDS} are used")
    return {"digest": sha256_of(target), "seconds": seconds, "warnings": warnings}


def _decode(content: IO[bytes], container: str, target: Path, channels: str) -> tuple[str, int]:
    output = [
        *("-map", "0:a:0", "-t", str(MAX_AUDIO_SECONDS)),
        *("-af", f"{channels},aresample={RATE}:out_sample_fmt=s16"),
        *("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"),
        *("-c:a", "flac", "-f", "flac", str(target)),
    ]
    return decode(content, container, _CODECS, ["-vn"], output)


def _seconds(found: list[tuple[str, str, str]]) -> float:
    """The last of the times that ffmpeg said."""
    if not found:
        return 0.0
    hours, minutes, seconds = found[-1]
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def main() -> None:
    """Decode one file."""
    source, target = map(Path, sys.argv[1:3])

    def work() -> dict[str, Any]:
        with sent_file(source, target, "a sound", audio_container_of, AUDIO_BYTES, AUDIO_FORMATS) as (file, container):
            return make(file, container, target)

    run(work)


if __name__ == "__main__":
    main()
