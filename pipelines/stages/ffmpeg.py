"""Finds ffmpeg, and keeps what it says."""

import os
import shutil
import tempfile
from typing import IO

import imageio_ffmpeg

from pipelines.core.errors import EncodingError

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
