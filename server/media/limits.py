"""What the child processes may use, and how they tell what they found. Only the children call these."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

try:
    import resource
except ImportError:
    # Windows has no such limits
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 2**31
CPU_SECONDS = 30
FILE_BYTES = 2**28
DESCRIPTORS = 64

IMAGE_BYTES = 20 * 2**20
"""Limit of the file of an image."""

IMAGE_FORMATS = "a JPEG, PNG, WebP, BMP or GIF file"
VIDEO_FORMATS = "an MP4, MOV, WebM or Matroska file"

AUDIO_FORMATS = "a WAV, MP3, M4A, Ogg or FLAC file"

AUDIO_BYTES = 20 * 2**20
"""Limit of the file of a sound."""

MAX_AUDIO_SECONDS = 60
"""So much of a sound is kept from its beginning. A video is longer only if it continues others."""

VIDEO_BYTES = 100 * 2**20
"""Limit of the file of a video."""

MAX_SECONDS = 10
"""So much of a video is read from its beginning: no model makes a longer one at once."""

REFUSED = 3
"""The exit status of a child that explains in `sentence` why it refuses its input."""

UNAVAILABLE = 4
"""The exit status of a child that could not write its result."""

NICENESS = 10
"""The server goes first, and what the workers compute."""


class RefusedInputError(Exception):
    """An input that cannot be used; `str()` is a sentence about it, without its name and a full stop."""


def run(work: Callable[[], Mapping[str, Any]], cpu_seconds: int = CPU_SECONDS, *, niceness: int = NICENESS) -> None:
    """Do the work of a child process within the limits, print the result as a line of JSON, and exit.

    What it starts has the same limits, each process for itself. `niceness` is added to the server's.
    """
    _limit(cpu_seconds, niceness)
    try:
        result, status = dict(work()), 0
    except RefusedInputError as error:
        result, status = {"sentence": str(error)}, REFUSED
    except MemoryError:
        result, status = {"sentence": "needs too much memory to be read"}, REFUSED
    except OSError as error:
        result, status = {"sentence": os.strerror(error.errno or 0)}, UNAVAILABLE
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    raise SystemExit(status)


def _limit(cpu_seconds: int, niceness: int) -> None:
    if resource is None:
        return
    os.nice(niceness)
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
