"""The server under test, its generations, the reference videos, and the counts of injected faults."""

import os
import sqlite3
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tests.stress.chaos.faults import Fault, Faults
from tests.support.server_process import MODEL, ServerProcess, SmallDisk

STEPS = 24
REQUEST: dict[str, Any] = {
    "model": MODEL,
    "prompt": "a red circle moving right on a blue background",
    "width": 256,
    "height": 160,
    "num_frames": 17,
    "num_inference_steps": STEPS,
}
SEEDS = 8
"""Each generation has one of these seeds, and so one of as many reference videos."""

SETTINGS = {
    "checkpoint_interval": "0.2",
    "min_free_bytes": "0",
    # seconds instead of minutes: a step of the demo model takes a tenth of a second
    "stall_floor": "8",
    "stall_first": "30",
    "stall_load": "30",
}
DISK_BYTES = 256 * 2**20
PATIENCE = 180.0
"""Seconds to wait for an injection point to be reached, or for a generation to end."""


@dataclass
class Tally:
    """Injected and survived faults, by (kind, target, point)."""

    tried: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    survived: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def count(self, what: tuple[str, str, str], failure: str = "") -> None:
        """Count one fault; `failure` describes what went wrong after it, if anything did."""
        self.tried[what] += 1
        self.survived[what] += not failure
        if failure:
            self.failures.append(f"{' '.join(what)}: {failure}")


class Experiment:
    """A server with fault injection, and its generations."""

    def __init__(self, folder: Path) -> None:
        (folder / "faults").mkdir()
        self.faults = Faults(folder / "faults")
        # only root may mount a disk that can be filled
        self.disk = SmallDisk(folder / "disk", DISK_BYTES) if os.geteuid() == 0 else None
        data_dir = folder / ("disk/data" if self.disk else "data")
        self.server = ServerProcess(data_dir, module="tests.stress.chaos.faulty_server", **SETTINGS)
        self.references: list[bytes] = []
        self.seconds_per_generation = 0.0
        self.ids: list[str] = []
        self.tally = Tally()

    def make_references(self) -> None:
        """Make the video of each seed without faults; the second half of them is timed."""
        seconds = []
        for seed in range(SEEDS):
            began = time.monotonic()
            self.references.append(self.server.video(self.server.enqueue(**REQUEST, seed=seed)))
            seconds.append(time.monotonic() - began)
        self.seconds_per_generation = statistics.median(seconds[SEEDS // 2 :])

    def enqueue(self, count: int) -> None:
        """Queue generations with the seeds in turn."""
        for seed in islice(cycle(range(SEEDS)), len(self.ids), len(self.ids) + count):
            self.ids.append(self.server.enqueue(**REQUEST, seed=seed))

    def ended(self) -> int:
        """The number of ended generations, from the database: the server may be down."""
        return len(self.query("SELECT id FROM generations WHERE status NOT IN ('queued', 'processing')"))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the database, read-only."""
        connection = sqlite3.connect(f"file:{self.server.data_dir / 'paddock.db'}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def inject(self, fault: Fault) -> bool:
        """Order a fault and wait until it is injected. A killed server is started again.

        Returns False if the injection point is not reached, which counts as not survived.
        """
        if self._carry_out(fault):
            return True
        self.tally.count((fault.kind, fault.target, fault.point), "its injection point was not reached")
        return False

    def _carry_out(self, fault: Fault) -> bool:
        self.faults.order(fault)
        deadline = time.monotonic() + PATIENCE
        while self.faults.is_pending and time.monotonic() < deadline:
            if fault.point == "loading" and self.server.worker_pids():
                self._reload()
            time.sleep(0.02)
        if self.faults.withdraw():
            return False
        if fault.target == "server":
            assert self.server.process is not None
            self.server.process.wait(timeout=30)
            self.server.start()
        return True

    def _reload(self) -> None:
        for verb in ("deactivate", "activate"):
            self.server.http.post(f"/models/{MODEL}/{verb}")
        time.sleep(1)

    def wait_for_another(self) -> None:
        """Wait until another generation has ended: two deaths of a worker in a row fail a generation."""
        before, deadline = self.ended(), time.monotonic() + PATIENCE
        while self.ended() <= before and time.monotonic() < deadline:
            time.sleep(0.05)
