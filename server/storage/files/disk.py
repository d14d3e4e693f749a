"""Whether the disk of the data directory has room for more work, looked up at most once a second."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

log = logging.getLogger("paddock.disk")

_FRESH_SECONDS = 1.0
_TRIAL_BYTES = 2**20
_MIB = 2**20

Clock = Callable[[], float]


class Disk:
    """The filesystem under a data directory, of which `min_free` bytes are to stay free; 0: no room is kept."""

    def __init__(self, data_dir: Path, min_free: int, clock: Clock = time.monotonic) -> None:
        self._data_dir = data_dir
        self._min_free = min_free
        self._clock = clock
        self._looked_at: float | None = None
        self._shortage: str | None = None
        self.free: int | None = None
        """Bytes free when last looked up; None when that could not be told."""

    async def shortage(self) -> str | None:
        """A sentence that says why no work is taken now; None while there is room."""
        if self._looked_at is None or self._clock() - self._looked_at >= _FRESH_SECONDS:
            # a disk on a network may hang, and must not take the event loop with it
            shortage = await asyncio.to_thread(self._look)
            self._looked_at = self._clock()
            self._tell(shortage)
        return self._shortage

    def _look(self) -> str | None:
        try:
            self.free = shutil.disk_usage(self._data_dir).free
        except OSError as error:
            self.free = None
            return f"The server's data directory cannot be reached: {os.strerror(error.errno or 0)}."
        if self.free >= self._min_free:
            return None
        return (
            f"The disk of the server's data directory is nearly full: {self.free // _MIB} MiB is free, and "
            f"{-(-self._min_free // _MIB)} MiB must be."
        )

    def _tell(self, shortage: str | None) -> None:
        """Log once that room has run out, and once that it is back."""
        if shortage and not self._shortage:
            log.warning("%s Until that changes nothing is accepted or started.", shortage)
        if self._shortage and not shortage:
            log.info("the disk has room again")
        self._shortage = shortage


def try_out(data_dir: Path) -> None:
    """Write a little to a data directory, and see it reach the disk; raises OSError."""
    with TemporaryFile(dir=data_dir) as trial:
        trial.write(bytes(_TRIAL_BYTES))
        trial.flush()
        os.fsync(trial.fileno())
