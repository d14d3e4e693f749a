"""Runs ffmpeg from the child processes on a file of a client, which it reads through a descriptor and nothing else."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.core.errors import EncodingError
from pipelines.stages.writing.ffmpeg import find_ffmpeg
from server.media.containers import HEAD_BYTES
from server.media.content import file_in
from server.media.limits import RefusedInputError

THREADS = "2"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SAID_BYTES = 65_536


def ffmpeg() -> str:
    """The path of ffmpeg. Raises OSError."""
    try:
        return find_ffmpeg()
    except EncodingError as error:
        raise OSError(errno.ENOENT, str(error)) from error


@contextmanager
def sent_file(
    source: Path, target: Path, what: str, container_of: Callable[[bytes], str | None], most: int, formats: str
) -> Iterator[tuple[IO[bytes], str]]:
    """A context with the file that a client sent as `source`, at its beginning, and the name of its container.

    `source` has the file itself, or its base64, whose bytes are written beside `target`. `what` it should be has at
    most so many bytes, in `formats` that `container_of` tells by the first ones. Raises RefusedInputError or OSError.
    """
    path = source
    with source.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if container_of(head) is None:
        path = target.with_suffix(".sent")
        path.write_bytes(file_in(source.read_bytes(), what, most))
    if path.stat().st_size > most:
        raise RefusedInputError(f"must have at most {most // 2**20} MB")
    # ffmpeg shares the position of the descriptor, which a buffer would be ahead of
    with path.open("rb", buffering=0) as file:
        container = container_of(file.read(HEAD_BYTES))
        if container is None:
            raise RefusedInputError(f"must be {formats}")
        file.seek(0)
        yield file, container


def decode(content: IO[bytes], container: str, codecs: str, limits: list[str], output: list[str]) -> tuple[str, int]:
    """Run ffmpeg on the file `content`, by the demuxer `container` and these codecs alone.

    `limits` are its arguments for the input, `output` those for what it makes. Returns the beginning and the end of
    what it says, and its exit status. Raises OSError if the disk is full.
    """
    command = [
        *(ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "info", "-y"),
        *("-protocol_whitelist", "fd", "-format_whitelist", container, "-codec_whitelist", codecs),
        *(*limits, "-threads", THREADS, "-f", container, "-fd", "0", "-i", "fd:"),
        *output,
    ]
    with subprocess.Popen(command, stdin=content, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        first, end = process.stderr.read(_SAID_BYTES), b""
        # of a damaged file it may say very much
        while more := process.stderr.read(_SAID_BYTES):
            end = (end + more)[-_SAID_BYTES:]
    said = (first + end).decode("utf-8", "replace")
    for number in _NO_SPACE if process.returncode else ():
        if os.strerror(number) in said:
            raise OSError(number, os.strerror(number))
    return said, process.returncode


def refuse(said: str, status: int) -> None:
    """Raise RefusedInputError for what can be wrong with any file, by what ffmpeg said."""
    if status < 0:
        raise RefusedInputError("needs too much memory or time to be read")
    if "Option fd not found" in said or "Unrecognized option 'fd'" in said or "Protocol not found" in said:
        raise RefusedInputError("cannot be read: this server's ffmpeg is older than version 6")
