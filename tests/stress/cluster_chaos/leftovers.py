"""Looks for workers that belong to no machine any more: they would hold a GPU's memory."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.stress.cluster_chaos.machines import Machine, all_matching

_PATTERN = r"ray::HostedWorker|server\.engine\.worker\b"
_SECONDS = 1.0


class Leftovers:
    """Notes how long each process was without a machine, and which are so now."""

    def __init__(self, machines: Callable[[], Iterable[Machine]]) -> None:
        self._machines = machines
        self._network = Path("/proc/self/ns/net").readlink()
        self._since: dict[psutil.Process, float] = {}
        self._is_over = False
        self.longest = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @property
    def now(self) -> list[int]:
        """The process ids of those that are left now."""
        return [process.pid for process in self._found()]

    def end(self) -> None:
        """Look no more."""
        self._is_over = True
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over:
            found, now = self._found(), time.monotonic()
            self._since = {process: self._since.get(process, now) for process in found}
            self.longest = max([self.longest, *(now - since for since in self._since.values())])
            time.sleep(_SECONDS)

    def _found(self) -> set[psutil.Process]:
        owned = {process for machine in self._machines() if machine.is_running for process in machine.processes()}
        return {*all_matching(_PATTERN, self._is_ours)} - owned

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{process.pid}/ns/net").readlink() == self._network
        return False
