"""The process of the background compiler, and why it failed."""

import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from os import SEEK_END
from pathlib import Path

MODULE = "pipelines.runner.compilation"
"""The module that the process runs."""

FAILED = "the blocks are not compiled: "
"""What precedes the reason, which is the last that a failing process prints."""

MAX_REASON_CHARS = 2**14
"""Limit of the reason, which may contain all that a compiler printed."""

MAX_PRINTED_BYTES = 2**17
"""So much of the end of what it printed is read: more than the longest reason in UTF-8."""


class CompilerProcess:
    """A process that compiles a block. Raises OSError if it cannot be started.

    What it prints goes to a file in the folder `cache`, which has no name and ends with this object.
    """

    def __init__(self, argument: str, cache: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_error:
            self._printed = on_error.enter_context(tempfile.TemporaryFile(dir=cache))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, argument],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
            )
            on_error.pop_all()

    @property
    def is_running(self) -> bool:
        """Whether it still compiles."""
        return self._process.poll() is None

    def failure(self) -> str | None:
        """Return why it failed, and in further lines what it printed before; None if it did not fail or still runs."""
        status = self._process.poll()
        if not status:
            return None
        self._printed.seek(max(0, self._printed.seek(0, SEEK_END) - MAX_PRINTED_BYTES))
        # the last one: what was printed before may have the same words
        printed, marker, reason = self._printed.read().decode(errors="replace").rpartition(FAILED)
        first, printed = (reason, printed) if marker else (_ending(status), reason)
        return f"{first.strip()}\n{printed.strip()}".rstrip()

    def close(self) -> None:
        """End it."""
        if self.is_running:
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def __del__(self) -> None:
        if hasattr(self, "_printed"):
            self._printed.close()


def _ending(status: int) -> str:
    if status < 0:
        return f"the compiler was killed by {signal.Signals(-status).name}"
    return f"the compiler exited with status {status}"
