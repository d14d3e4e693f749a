"""Faults on order, inside a server and its worker: what `tests.stress.chaos` breaks them with.

An order is a file in the folder that the variable FAULTS names; whoever comes to its place carries it out, once. What
was carried out, and where each attempt took a generation up, goes into `log.jsonl` beside it.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.core.files import atomic_write

VARIABLE = "FAULTS"
BALLAST = "FAULTS_BALLAST"
_CLOCK = time.time


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to happen to `victim` ("worker" or "server") at the (`skip` + 1)-th time that a place is come to."""

    kind: str
    victim: str
    place: str
    skip: int = 0


class Faults:
    """The folder of orders, as the benchmark gives them and as the processes carry them out."""

    def __init__(self, folder: Path) -> None:
        self._order = folder / "order.json"
        self._log = folder / "log.jsonl"
        self._clock = folder / "clock"
        self._seen: dict[str, int] = {}

    @classmethod
    def here(cls) -> "Faults":
        """Those of this process."""
        return cls(Path(os.environ[VARIABLE]))

    # the benchmark's side

    def order(self, fault: Fault) -> None:
        """Have a fault happen next."""
        atomic_write(self._order, json.dumps(asdict(fault)), durable=False)

    @property
    def is_pending(self) -> bool:
        """Whether the last order is not carried out yet."""
        return self._order.exists()

    def withdraw(self) -> bool:
        """Take an order back; returns whether it was still there."""
        try:
            self._order.unlink()
        except FileNotFoundError:
            return False
        return True

    def set_clock(self, ahead: float) -> None:
        """Have the server's clock go `ahead` of the real one by so many seconds, from now on."""
        self._clock.write_text(str(ahead), encoding="utf-8")

    def log(self) -> list[dict[str, Any]]:
        """Everything that was noted, in order."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]

    # the victims' side

    def note(self, **facts: Any) -> None:
        """Write a line into the log; it is there even if the process ends now."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(facts) + "\n")

    def strike(
        self,
        place: str,
        before: Callable[[], None] = lambda: None,
        flood: Callable[[], None] = lambda: None,
        **facts: Any,
    ) -> None:
        """Carry out what is ordered for this place, if anything is; the facts go into the log with it.

        `before` is done first, `flood` is what a flood means here.
        """
        try:
            fault = Fault(**json.loads(self._order.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._seen.clear()
            return
        if fault.place != place:
            return
        seen = self._seen[place] = self._seen.get(place, 0) + 1
        if seen > fault.skip and self.withdraw():
            self.note(**asdict(fault), **facts)
            before()
            if fault.kind == "flood":
                flood()
            else:
                _WAYS[fault.kind](fault.victim)

    def time(self) -> float:
        """The time as the server is to see it."""
        try:
            return _CLOCK() + float(self._clock.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return _CLOCK()


def _kill(victim: str) -> None:
    # the server's worker is the only one that strikes at another process
    is_worker = "worker" in os.environ.get("FAULTS_ROLE", "")
    os.kill(os.getppid() if victim == "server" and is_worker else os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def _exit(_victim: str) -> None:
    os._exit(3)


def _hang(_victim: str) -> None:
    threading.Event().wait()


def _nan(_victim: str) -> None:
    from pipelines.core.errors import NonFiniteOutputError

    raise NonFiniteOutputError("Values that are not numbers, by order.")


def _fill(_victim: str) -> None:
    """Leave no byte on the disk that the benchmark has mounted for this."""
    with Path(os.environ[BALLAST]).open("ab", buffering=0) as ballast:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)) == size:
                    pass


_WAYS: dict[str, Callable[[str], None]] = {"kill": _kill, "exit": _exit, "hang": _hang, "nan": _nan, "fill": _fill}
