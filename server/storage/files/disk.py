"""Free space on the disk of the data directory, measured at most once a second."""

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
_TEST_BYTES = 2**20
_MIB = 2**20

Clock = Callable[[], float]


class Disk:
    """The filesystem of a data directory, of which `min_free` bytes must stay free; 0: no limit."""

    def __init__(self, data_dir: Path, min_free: int, clock: Clock = time.monotonic) -> None:
        self._data_dir = data_dir
        self._min_free = min_free
        self._clock = clock
        self._measured_at: float | None = None
        self._shortage: str | None = None
        self.free: int | None = None
        """Free bytes at the last measurement; None if it failed."""

    async def shortage(self) -> str | None:
        """A sentence that says why no work is accepted now; None while there is enough space."""
        if self._measured_at is None or self._clock() - self._measured_at >= _FRESH_SECONDS:
            # a network disk may hang, and must not block the event loop
            shortage = await asyncio.to_thread(self._measure)
            self._measured_at = self._clock()
            self._log(shortage)
        return self._shortage

    def _measure(self) -> str | None:
        try:
            self.free = shutil.disk_usage(self._data_dir).free
        except OSError as error:
            self.free = None
            return f"The server's data directory cannot be reached: {os.strerror(error.errno or 0)}."
        if self.free >= self._min_free:
            return None
        return (
            f"The disk of the server's data directory is nearly full: {self.free // _MIB} MiB is free, "
            f"and at least {-(-self._min_free // _MIB)} MiB must stay free."
        )

    def _log(self, shortage: str | None) -> None:
        """Log once when space runs out, and once when it is back."""
        if shortage and not self._shortage:
            log.warning("%s Meanwhile no generation is accepted or started.", shortage)
        if self._shortage and not shortage:
            log.info("the disk has enough free space again")
        self._shortage = shortage


def try_out(data_dir: Path) -> None:
    """Write some data to a data directory and flush it to the disk; raises OSError."""
    with TemporaryFile(dir=data_dir) as file:
        file.write(bytes(_TEST_BYTES))
        file.flush()
        os.fsync(file.fileno())
