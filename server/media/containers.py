"""Which kind of file a video or a sound is, by its first bytes."""

import re
from mmap import ACCESS_READ, mmap
from pathlib import Path

HEAD_BYTES = 64
"""So many of a file's first bytes are looked at."""

_MATROSKA = b"\x1a\x45\xdf\xa3"
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""What an MP4 or a QuickTime file may begin with, after the length of the box."""

_TRACK = re.compile(rb"hdlr[\s\S]{8}(vide|soun)")
"""What a track has, wherever in the file its index is: M4A files are no different from MP4 ones in any other way."""

_PICTURE, _SOUND = b"vide", b"soun"


def container_of(head: bytes) -> str | None:
    """Return ffmpeg's name of a video's container; None for what is none that is read."""
    if head.startswith(_MATROSKA):
        return "matroska"
    return "mov" if head[4:8] in _MOV_BOXES else None


def audio_container_of(head: bytes) -> str | None:
    """Return ffmpeg's name of a sound's container; None for what is none that is read."""
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith((b"fLaC", b"OggS")):
        return "flac" if head.startswith(b"fLaC") else "ogg"
    # the beginning of its tag, or of a frame of layer III
    if head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] and head[1] & 0xE6 == 0xE2):
        return "mp3"
    return "mov" if head[4:8] in _MOV_BOXES else None


def is_video(path: Path) -> bool:
    """Whether a file is a video that may be read. Raises OSError."""
    container = container_of(_head(path))
    return container is not None and not (container == "mov" and _has_only_sound(path))


def is_audio(path: Path) -> bool:
    """Whether a file is a sound that may be read, and no video. Raises OSError."""
    head = _head(path)
    if container_of(head) == "mov":
        return _has_only_sound(path)
    return audio_container_of(head) is not None and container_of(head) is None


def _has_only_sound(path: Path) -> bool:
    """Whether none of the tracks of an MP4 or QuickTime file is a picture, and one is a sound."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        kinds = {found[1] for found in _TRACK.finditer(content)}
    return _PICTURE not in kinds and _SOUND in kinds


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
