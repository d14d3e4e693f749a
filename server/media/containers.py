"""Which kind of file a video is, by its first bytes."""

from pathlib import Path

HEAD_BYTES = 64
"""So many of a file's first bytes are looked at."""

_MATROSKA = b"\x1a\x45\xdf\xa3"
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""What an MP4 or a QuickTime file may begin with, after the length of the box."""


def container_of(head: bytes) -> str | None:
    """Return ffmpeg's name of a video's container; None for what is none that is read."""
    if head.startswith(_MATROSKA):
        return "matroska"
    return "mov" if head[4:8] in _MOV_BOXES else None


def is_video(path: Path) -> bool:
    """Whether a file is a video that may be read. Raises OSError."""
    with path.open("rb") as file:
        return container_of(file.read(HEAD_BYTES)) is not None
