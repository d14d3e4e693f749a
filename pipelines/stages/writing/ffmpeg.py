"""Finds ffmpeg, runs it, and explains how it failed."""

import errno
import os
import shutil
import subprocess
import tempfile
from typing import IO

import imageio_ffmpeg

from pipelines.core.errors import EncodingError

_NO_SPACE = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))

QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin")
"""ffmpeg's arguments for a process that nobody talks to, and that says no more than its errors."""


def find_ffmpeg() -> str:
    """Return the path of ffmpeg. Raises EncodingError if there is none."""
    try:
        found = shutil.which(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        found = None
    if found is None:
        raise EncodingError(
            "ffmpeg was not found. Reinstall the package imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to ffmpeg's path."
        )
    return found


def log_file() -> IO[bytes]:
    """A file for what ffmpeg says: in memory where the system can, for the disk may be full."""
    memory = getattr(os, "memfd_create", None)
    return tempfile.TemporaryFile() if memory is None else os.fdopen(memory("ffmpeg"), "w+b")


def read_log(log: IO[bytes]) -> list[str]:
    """Return the lines that ffmpeg has written to a file from `log_file`."""
    log.seek(0)
    return log.read().decode(errors="replace").strip().splitlines()


def run(arguments: list[str], text: str, sentence: str) -> bytes:
    """Run ffmpeg with arguments and `text` as its input, and return what it prints.

    Raises EncodingError, of which `sentence` is the beginning.
    """
    with log_file() as log:
        done = subprocess.run(
            [find_ffmpeg(), *QUIET, "-y", *arguments],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
        if done.returncode != 0:
            raise encoding_error(reason_in(log, done.returncode), sentence)
    return done.stdout


def reason_in(log: IO[bytes], status: int) -> str:
    """Why ffmpeg failed with an exit status, by what it wrote to a file from `log_file`."""
    lines = read_log(log)
    # messages about the consequences may follow the cause
    causes = [line for line in lines if line.endswith(_NO_SPACE)] or lines
    return causes[-1] if lines else f"exit status {status}"


def encoding_error(reason: str, sentence: str = "The video could not be written") -> EncodingError:
    """An error with a reason, or with what to do about a full disk."""
    if reason.endswith(_NO_SPACE):
        return EncodingError(
            "No space left on the server's disk: the video could not be written. Ask for it again when there is room."
        )
    return EncodingError(f"{sentence}: {reason}")
