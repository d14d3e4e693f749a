"""Puts a comment into the file of a video, whose packets stay as they are."""

import re
from pathlib import Path

from pipelines.stages.writing.ffmpeg import run

_SPECIAL = re.compile(r"([=;#\\\n])")


def tag(video: Path, comment: str, target: Path, container: tuple[str, ...]) -> None:
    """Write the streams of an MP4 file and a comment, as the tag `comment`, to another file.

    `container` are ffmpeg's arguments for it. Equal files and comments give equal bytes. Raises EncodingError.
    """
    metadata = ";FFMETADATA1\ncomment=" + _SPECIAL.sub(r"\\\1", comment) + "\n"
    run(
        [
            *("-i", f"file:{video.absolute()}", "-f", "ffmetadata", "-i", "pipe:0"),
            *("-map", "0", "-map_metadata", "1", "-c", "copy", "-flags:a", "+bitexact"),
            *(*container, str(target)),
        ],
        metadata,
        "The video's comment could not be written",
    )
