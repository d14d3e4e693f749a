"""The faults: kills at every point of a generation, other failures of a worker, a full disk, a locked database, a
clock that jumps."""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

from tests.stress.chaos.experiment import REQUEST, STEPS, Experiment
from tests.stress.chaos.faults import BALLAST, Fault
from tests.stress.chaos.verification import HOURS, failure_of
from tests.support.server_process import TERMINAL

KILLS = (
    ("worker", "loading", 6),
    ("worker", "encoding the prompt", 1),
    ("worker", "denoising", STEPS),
    ("worker", "saving a checkpoint", 3),
    ("worker", "decoding", 5),
    ("worker", "finishing the file", 1),
    ("worker", "between rename and report", 1),
    ("server", "before the claim", 1),
    ("server", "after the claim", 1),
    ("server", "loading", 6),
    ("server", "denoising", STEPS),
    ("server", "saving a checkpoint", 3),
    ("server", "decoding", 5),
    ("server", "finishing the file", 1),
    ("server", "between rename and report", 1),
    ("server", "before the row says succeeded", 1),
    ("server", "after the row says succeeded", 1),
)
"""Target and injection point of each kill, and how often a generation reaches that point."""

OTHERS = (
    *(Fault("exit", "worker", point) for point in ("loading", "encoding the prompt", "denoising", "decoding")),
    *(Fault("hang", "worker", point) for point in ("loading", "denoising", "decoding", "finishing the file")),
    *(Fault("flood", "worker", point) for point in ("loading", "denoising")),
    *(Fault("nan", "worker", point) for point in ("denoising", "decoding")),
)
FILLED = ("encoding the prompt", "denoising", "saving a checkpoint", "decoding")
FULL_SECONDS = 5
DAY = 86_400.0


def kill_at_random(experiment: Experiment, kills: int, rng: random.Random) -> None:
    """Kill worker and server: equally often at each point, at a random moment there, in random order."""
    chosen = list(islice(cycle(KILLS), kills))
    rng.shuffle(chosen)
    for target, point, times in chosen:
        if len(experiment.ids) - experiment.ended() < 3:
            # the queue is nearly empty: there must be a generation to interrupt
            experiment.enqueue(5)
        if experiment.inject(Fault("kill", target, point, rng.randrange(times))):
            experiment.wait_for_another()


def break_the_worker(experiment: Experiment) -> None:
    """Have the worker exit, hang, flood the server with messages, or compute values that are not numbers."""
    for fault in OTHERS:
        experiment.enqueue(2)
        if experiment.inject(fault):
            experiment.wait_for_another()


def fill_the_disk(experiment: Experiment) -> None:
    """Fill the disk for some seconds, at different points of a generation."""
    if experiment.disk is None:
        print("the disk was not filled: that needs root, to mount a small disk")
        return
    for point in FILLED:
        experiment.enqueue(2)
        if experiment.inject(Fault("fill", "worker", point)):
            time.sleep(FULL_SECONDS)
            Path(os.environ[BALLAST]).unlink()
            experiment.wait_for_another()


def disturb_the_machine(experiment: Experiment) -> None:
    """Lock the database and change the clock while a generation runs."""
    for id_ in experiment.ids:
        experiment.server.wait_for(id_, *TERMINAL, timeout=HOURS)
    for name, disturbance in (
        ("records locked by another process for 12 s", lambda: _locked(experiment, 12)),
        ("clock a day ahead", lambda: _clock(experiment, DAY)),
        ("clock a day back", lambda: _clock(experiment, -DAY)),
    ):
        id_ = experiment.server.enqueue(**REQUEST, seed=0)
        with disturbance():
            time.sleep(0.5)
        failure = failure_of(experiment, id_, experiment.references[0])
        experiment.tally.count(("machine", name, "a generation running"), failure)


@contextmanager
def _locked(experiment: Experiment, seconds: float) -> Iterator[None]:
    connection = sqlite3.connect(experiment.server.data_dir / "paddock.db", timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)
    yield
    connection.execute("ROLLBACK")
    connection.close()


@contextmanager
def _clock(experiment: Experiment, offset: float) -> Iterator[None]:
    experiment.faults.set_clock(offset)
    yield
