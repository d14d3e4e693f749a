"""What a process is to its parent and its children."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have Linux send SIGKILL when the parent dies; this works even while a library holds the GIL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_deleted_folder() -> None:
    """Go to the root if the current folder has been deleted: libraries ask for its path, here and in children."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")
