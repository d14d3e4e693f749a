"""Fault injection inside a server and its worker.

A fault is ordered by a file in the folder that the variable FAULTS names. The process that reaches its injection point
carries it out, once. Each injected fault, and the progress at which each attempt starts, is logged there, in
`log.jsonl`.
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
"""The variable that names the file with which the disk is filled."""

SERVER_PID = "FAULTS_SERVER_PID"
"""The variable with the server's process id: a worker's parent may be the template that it is forked from."""

_REAL_TIME = time.time


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault for `target` ("worker" or "server"), at the (`skip` + 1)-th time that it reaches an injection point."""

    kind: str
    target: str
    point: str
    skip: int = 0


class Faults:
    """The folder of ordered faults, for the benchmark that orders them and the processes that carry them out."""

    def __init__(self, folder: Path) -> None:
        self._order = folder / "order.json"
        self._log = folder / "log.jsonl"
        self._clock = folder / "clock"
        self._seen: dict[str, int] = {}

    @classmethod
    def here(cls) -> "Faults":
        """The faults ordered for this process."""
        return cls(Path(os.environ[VARIABLE]))

    # used by the benchmark

    def order(self, fault: Fault) -> None:
        """Order the next fault."""
        atomic_write(self._order, json.dumps(asdict(fault)), durable=False)

    @property
    def is_pending(self) -> bool:
        """Whether the last order has not been carried out yet."""
        return self._order.exists()

    def withdraw(self) -> bool:
        """Withdraw an order. Returns whether it was still pending."""
        try:
            self._order.unlink()
        except FileNotFoundError:
            return False
        return True

    def set_clock(self, offset: float) -> None:
        """Set the server's clock `offset` seconds ahead of the real one, from now on."""
        self._clock.write_text(str(offset), encoding="utf-8")

    def log(self) -> list[dict[str, Any]]:
        """All log entries, in order."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]

    # used by server and worker

    def note(self, **facts: Any) -> None:
        """Append a line to the log. It is kept even if the process is killed right after."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(facts) + "\n")

    def inject(
        self,
        point: str,
        before: Callable[[], None] = lambda: None,
        flood: Callable[[], None] = lambda: None,
        **facts: Any,
    ) -> None:
        """Carry out the fault that is ordered for this point, if any, and log it with the facts.

        `before` is called first; `flood` carries out a fault of the kind "flood".
        """
        try:
            fault = Fault(**json.loads(self._order.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._seen.clear()
            return
        if fault.point != point:
            return
        seen = self._seen[point] = self._seen.get(point, 0) + 1
        if seen > fault.skip and self.withdraw():
            self.note(**asdict(fault), **facts)
            before()
            if fault.kind == "flood":
                flood()
            else:
                _INJECTIONS[fault.kind](fault.target)

    def time(self) -> float:
        """The time that the server sees."""
        try:
            return _REAL_TIME() + float(self._clock.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return _REAL_TIME()


def _kill(target: str) -> None:
    # a fault for the server may be reached in its worker, never the other way round
    os.kill(int(os.environ[SERVER_PID]) if target == "server" else os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def _exit(_target: str) -> None:
    os._exit(3)


def _hang(_target: str) -> None:
    threading.Event().wait()


def _nan(_target: str) -> None:
    from pipelines.core.errors import NonFiniteOutputError

    raise NonFiniteOutputError("Values that are not numbers, by fault injection.")


def _fill(_target: str) -> None:
    """Fill the disk that the benchmark has mounted for this to the last byte."""
    with Path(os.environ[BALLAST]).open("ab", buffering=0) as ballast:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)) == size:
                    pass


_INJECTIONS: dict[str, Callable[[str], None]] = {
    "kill": _kill,
    "exit": _exit,
    "hang": _hang,
    "nan": _nan,
    "fill": _fill,
}
