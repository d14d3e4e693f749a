"""Faults of every kind at every stage, against a real server with the demo's weights: what is lost, what is repeated.

python -m tests.stress.chaos [--generations 200] [--kills 120] [--seed 0]

First the twins: each request once, undisturbed. Then all generations are queued, and faults are ordered one after
another while they run (`tests.stress.faults`). In the end every row, every file and every attempt is looked at. The
table
tells how often each fault was tried at each place and survived: the generation it struck ended as it should, and its
video, if it has one, is its twin's to the byte.
"""

import json
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import percentile, show
from tests.stress.faults import BALLAST, VARIABLE, Fault, Faults
from tests.support.server_process import MODEL, TERMINAL, ServerProcess, SmallDisk

STEPS = 24
REQUEST: dict[str, Any] = {
    "model": MODEL,
    "prompt": "a red circle moving right on a blue background",
    "width": 256,
    "height": 160,
    "num_frames": 17,
    "num_inference_steps": STEPS,
}
TWINS = 8
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
"""Who is killed where, and how many times a generation comes by there."""
OTHERS = (
    *(Fault("exit", "worker", place) for place in ("loading", "encoding the prompt", "denoising", "decoding")),
    *(Fault("hang", "worker", place) for place in ("loading", "denoising", "decoding", "finishing the file")),
    *(Fault("flood", "worker", place) for place in ("loading", "denoising")),
    *(Fault("nan", "worker", place) for place in ("denoising", "decoding")),
)
SETTINGS = {
    "checkpoint_interval": "0.2",
    "min_free_bytes": "0",
    # seconds instead of minutes: the worker's steps take a tenth of one
    "stall_floor": "8",
    "stall_first": "30",
    "stall_load": "30",
}
FILLED = ("encoding the prompt", "denoising", "saving a checkpoint", "decoding")
DISK_BYTES = 256 * 2**20
ENDS_ALLOWED = {"nan": "not numbers", "fill": "No space left"}
"""What a generation may fail with where a video cannot be had."""
SWEEP_SECONDS = 90.0
"""Longer than a server takes to clear away what a killed worker's encoder left."""
DAY = 86_400.0
PATIENCE = 180.0
HOURS = 7200.0
"""For a queue of hundreds to be worked off."""


@dataclass
class Tally:
    """What was tried and what of it was survived, by kind and place."""

    tried: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    survived: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def count(self, what: tuple[str, str, str], fault: str = "") -> None:
        """Note one; `fault` says what went wrong, if anything did."""
        self.tried[what] += 1
        self.survived[what] += not fault
        if fault:
            self.faults.append(f"{' '.join(what)}: {fault}")


class Chaos:
    """A server with faults to order, and what became of its generations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "faults").mkdir()
        self.faults = Faults(folder / "faults")
        # only root may mount a disk that can be filled
        self.disk = SmallDisk(folder / "disk", DISK_BYTES) if os.geteuid() == 0 else None
        data_dir = folder / ("disk/data" if self.disk else "data")
        self.server = ServerProcess(data_dir, module="tests.stress.faulty_server", **SETTINGS)
        self.twins: list[bytes] = []
        self.twin_seconds = 0.0
        self.ids: list[str] = []
        self.tally = Tally()
        self.restarts = 0

    def make_twins(self) -> None:
        """Make each request once, undisturbed; the second half tells how long one takes."""
        seconds = []
        for seed in range(TWINS):
            began = time.monotonic()
            self.twins.append(self.server.video(self.server.enqueue(**REQUEST, seed=seed)))
            seconds.append(time.monotonic() - began)
        self.twin_seconds = statistics.median(seconds[TWINS // 2 :])

    def enqueue(self, count: int) -> None:
        """Queue generations, the twins' requests in turn."""
        for seed in islice(cycle(range(TWINS)), len(self.ids), len(self.ids) + count):
            self.ids.append(self.server.enqueue(**REQUEST, seed=seed))

    def done(self) -> int:
        """How many generations have ended, by the records themselves: a server may be down."""
        return len(self.query("SELECT id FROM generations WHERE status NOT IN ('queued', 'processing')"))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Read the records."""
        connection = sqlite3.connect(f"file:{self.server.data_dir / 'paddock.db'}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def strike(self, fault: Fault) -> bool:
        """Order a fault and wait until it is carried out; a server that was struck is started again."""
        self.faults.order(fault)
        deadline = time.monotonic() + PATIENCE
        while self.faults.is_pending and time.monotonic() < deadline:
            if fault.place == "loading" and self.server.worker_pids():
                # it loads once it is gone, or was idle
                self.restart_worker()
            time.sleep(0.02)
        if self.faults.withdraw():
            return False
        if fault.victim == "server":
            assert self.server.process is not None
            self.server.process.wait(timeout=30)
            self.server.start()
            self.restarts += 1
        return True

    def restart_worker(self) -> None:
        """Have the model loaded again, by the owner's means."""
        for verb in ("deactivate", "activate"):
            self.server.http.post(f"/models/{MODEL}/{verb}")
        time.sleep(1)

    def wait_for_more(self, before: int) -> None:
        """Wait until another generation has ended: one fault a generation, or two at most."""
        deadline = time.monotonic() + PATIENCE
        while self.done() <= before and time.monotonic() < deadline:
            time.sleep(0.05)


def kill_at_random(chaos: Chaos, kills: int, dice: random.Random) -> None:
    """Kill worker and server, as often at each place, at a random moment there, in random order."""
    wanted = list(islice(cycle(KILLS), kills))
    dice.shuffle(wanted)
    for victim, place, times in wanted:
        if len(chaos.ids) - chaos.done() < 3:
            # the queue ran dry before the kills: more of the same keeps them among running ones
            chaos.enqueue(5)
        before = chaos.done()
        fault = Fault("kill", victim, place, dice.randrange(times))
        if chaos.strike(fault):
            chaos.wait_for_more(before)
        else:
            chaos.tally.count(("kill", victim, place), "never came to pass")


def go_wrong_otherwise(chaos: Chaos) -> None:
    """Everything else that a worker may do."""
    for fault in OTHERS:
        chaos.enqueue(2)
        before = chaos.done()
        if chaos.strike(fault):
            chaos.wait_for_more(before)
        else:
            chaos.tally.count((fault.kind, fault.victim, fault.place), "never came to pass")


def fill_the_disk(chaos: Chaos) -> None:
    """Have the disk full for some seconds, from different moments of a generation on."""
    if chaos.disk is None:
        print("the disk was not filled: only root can mount one for that")
        return
    for place in FILLED:
        chaos.enqueue(2)
        before = chaos.done()
        if chaos.strike(Fault("fill", "worker", place)):
            time.sleep(5)
            Path(os.environ[BALLAST]).unlink()
            chaos.wait_for_more(before)
        else:
            chaos.tally.count(("fill", "worker", place), "never came to pass")


def surround(chaos: Chaos) -> None:
    """What may happen to the machine while a generation runs: its records, its clock."""
    for id_ in chaos.ids:
        chaos.server.wait_for(id_, *TERMINAL, timeout=HOURS)
    for name, trouble in (
        ("records locked by another process for 12 s", lambda: locked(chaos, 12)),
        ("clock a day ahead", lambda: clock(chaos, DAY)),
        ("clock a day back", lambda: clock(chaos, -DAY)),
    ):
        id_ = chaos.server.enqueue(**REQUEST, seed=0)
        with trouble():
            time.sleep(0.5)
        fault = examine(chaos, id_, chaos.twins[0])
        chaos.tally.count(("machine", name, "a generation running"), fault)


@contextmanager
def locked(chaos: Chaos, seconds: float) -> Iterator[None]:
    connection = sqlite3.connect(chaos.server.data_dir / "paddock.db", timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)
    yield
    connection.execute("ROLLBACK")
    connection.close()


@contextmanager
def clock(chaos: Chaos, ahead: float) -> Iterator[None]:
    chaos.faults.set_clock(ahead)
    yield


def examine(chaos: Chaos, id_: str, twin: bytes) -> str:
    """What is wrong with how a generation ended; empty if nothing is."""
    row = chaos.server.wait_for(id_, *TERMINAL, timeout=HOURS)
    if row["status"] != "succeeded":
        return f"{row['status']}: {row['error_message']}"
    video = httpx.get(row["result_url"]).content
    return "" if video == twin else "its video differs from its twin's"


def look_at_everything(chaos: Chaos) -> dict[str, Any]:
    """Every generation, every attempt and every file, held against the faults that struck."""
    chaos.server.http.post(f"/models/{MODEL}/activate")
    faults = {id_: examine(chaos, id_, chaos.twins[index % TWINS]) for index, id_ in enumerate(chaos.ids)}
    attempts = defaultdict(list)
    for id_, attempt, outcome in chaos.query("SELECT generation_id, attempt, outcome FROM attempts ORDER BY attempt"):
        attempts[id_].append((attempt, outcome))
    for id_ in chaos.ids:
        outcomes = [outcome for _, outcome in attempts[id_]]
        if [attempt for attempt, _ in attempts[id_]] != list(range(1, len(outcomes) + 1)):
            faults[id_] = f"its attempts are {attempts[id_]}"
        if outcomes.count("succeeded") > 1 or None in outcomes:
            faults[id_] = f"its attempts ended as {outcomes}"
    struck: set[str] = set()
    for entry in chaos.faults.log():
        if "kind" in entry:
            what = (entry["kind"], entry["victim"], entry["place"])
            about = entry.get("generation", "")
            fault = faults.get(about, "")
            if (sentence := ENDS_ALLOWED.get(entry["kind"])) and sentence in fault:
                fault = ""
                struck.add(about)
            chaos.tally.count(what, fault)
    if any(kind == "fill" for kind, _, _ in chaos.tally.tried):
        # a full disk strikes whatever is made before there is room again
        struck |= {id_ for id_, fault in faults.items() if ENDS_ALLOWED["fill"] in fault}
    lost = {id_: fault for id_, fault in faults.items() if fault and id_ not in struck}
    videos = {path.name for path in until_swept(chaos)}
    named = {name for (name,) in chaos.query("SELECT artifact FROM generations WHERE artifact IS NOT NULL")}
    return {
        "generations": len(chaos.ids),
        "lost_or_spoilt": lost,
        "done_twice": sum(sum(outcome == "succeeded" for _, outcome in tries) > 1 for tries in attempts.values()),
        "files_without_row": sorted(videos - named),
        "rows_without_file": sorted(named - videos),
        "checkpoints_left": len(list((chaos.server.data_dir / "checkpoints").iterdir())),
        **repeated(chaos),
    }


def until_swept(chaos: Chaos) -> list[Path]:
    """The files of the videos' folder, once half-written ones have had the time to be cleared away."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while True:
        files = list((chaos.server.data_dir / "videos").iterdir())
        if time.monotonic() > deadline or not any(path.suffix == ".part" for path in files):
            return files
        time.sleep(1)


def repeated(chaos: Chaos) -> dict[str, Any]:
    """What of a generation's work was done again after a kill, in per cent of it and in seconds."""
    reached: dict[str, float] = {}
    again = []
    for entry in chaos.faults.log():
        if entry.get("kind") == "kill" and "reached" in entry:
            reached[entry["generation"]] = entry["reached"]
        elif "taken_up" in entry and entry["generation"] in reached:
            again.append(max(0.0, reached.pop(entry["generation"]) - entry["taken_up"]))
    if not again:
        return {"kills_that_repeat": 0}
    return {
        "kills_that_repeat": len(again),
        "repeated_percent_median": round(100 * statistics.median(again), 2),
        "repeated_percent_p95": round(100 * percentile(again, 95), 2),
        "repeated_seconds_median": round(chaos.twin_seconds * statistics.median(again), 3),
        "repeated_seconds_max": round(chaos.twin_seconds * max(again), 3),
    }


def main() -> None:
    """Break it, look at it, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ[VARIABLE], os.environ[BALLAST] = str(folder / "faults"), str(folder / "disk" / "ballast")
    began = time.monotonic()
    chaos = Chaos(folder)
    try:
        chaos.server.start()
        chaos.make_twins()
        chaos.enqueue(options.generations)
        kill_at_random(chaos, options.kills, random.Random(options.seed))
        go_wrong_otherwise(chaos)
        fill_the_disk(chaos)
        surround(chaos)
        figures = look_at_everything(chaos)
        chaos.server.stop()
    finally:
        chaos.server.close()
        if chaos.disk is not None:
            chaos.disk.unmount()
        shutil.rmtree(folder, ignore_errors=True)
    tally = chaos.tally
    rows = [(*what, f"{tally.survived[what]} of {tried}") for what, tried in sorted(tally.tried.items())]
    print(json.dumps(tally.faults, indent=1))
    show(
        "chaos",
        rows,
        {
            **figures,
            "tried": tally.tried.total(),
            "survived": tally.survived.total(),
            "seconds_per_generation": round(chaos.twin_seconds, 2),
            "minutes": round((time.monotonic() - began) / 60, 1),
        },
        columns=("fault", "of", "at", "survived"),
    )


if __name__ == "__main__":
    main()
