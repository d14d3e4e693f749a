"""Checks every generation, attempt and file after the faults, and measures repeated work."""

import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import percentile
from tests.stress.chaos.experiment import SEEDS, Experiment
from tests.support.server_process import MODEL, TERMINAL

ALLOWED_ERRORS = {"nan": "not numbers", "fill": "No space left"}
"""Part of the error with which a generation may fail, by kind of fault: these faults leave no video."""

SWEEP_SECONDS = 90.0
"""More than the server takes until it removes files that a killed worker left."""

HOURS = 7200.0
"""Seconds to wait for a queue of hundreds of generations."""


def failure_of(experiment: Experiment, id_: str, reference: bytes) -> str:
    """What is wrong with an ended generation; empty if nothing is."""
    row = experiment.server.wait_for(id_, *TERMINAL, timeout=HOURS)
    if row["status"] != "succeeded":
        return f"{row['status']}: {row['error_message']}"
    video = httpx.get(row["result_url"]).content
    return "" if video == reference else "its video differs from the reference"


def verify(experiment: Experiment) -> dict[str, Any]:
    """Check everything, count the outcome of each injected fault, and return the figures of the report."""
    experiment.server.http.post(f"/models/{MODEL}/activate")
    failures = {
        id_: failure_of(experiment, id_, experiment.references[index % SEEDS])
        for index, id_ in enumerate(experiment.ids)
    }
    outcomes = _outcomes(experiment)
    failures |= {id_: failure for id_, failure in _wrong_attempts(experiment, outcomes).items() if failure}
    excused = _count(experiment, failures)
    videos = {path.name for path in _swept_videos(experiment)}
    named = {name for (name,) in experiment.query("SELECT artifact FROM generations WHERE artifact IS NOT NULL")}
    return {
        "generations": len(experiment.ids),
        "lost_or_spoilt": {id_: failure for id_, failure in failures.items() if failure and id_ not in excused},
        "done_twice": sum([ended for _, ended in each].count("succeeded") > 1 for each in outcomes.values()),
        "files_without_row": sorted(videos - named),
        "rows_without_file": sorted(named - videos),
        "checkpoints_left": len(list((experiment.server.data_dir / "checkpoints").iterdir())),
        **_repeated(experiment),
    }


def _outcomes(experiment: Experiment) -> dict[str, list[tuple[int, str | None]]]:
    """The number and the outcome of each attempt, by generation."""
    outcomes: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
    rows = experiment.query("SELECT generation_id, attempt, outcome FROM attempts ORDER BY attempt")
    for id_, attempt, outcome in rows:
        outcomes[id_].append((attempt, outcome))
    return outcomes


def _wrong_attempts(experiment: Experiment, outcomes: dict[str, list[tuple[int, str | None]]]) -> dict[str, str]:
    wrong = {}
    for id_ in experiment.ids:
        numbers, ends = [number for number, _ in outcomes[id_]], [outcome for _, outcome in outcomes[id_]]
        if numbers != list(range(1, len(numbers) + 1)):
            wrong[id_] = f"its attempts are {outcomes[id_]}"
        if ends.count("succeeded") > 1 or None in ends:
            wrong[id_] = f"its attempts ended as {ends}"
    return wrong


def _count(experiment: Experiment, failures: dict[str, str]) -> set[str]:
    """Count each injected fault as survived or not. Returns the generations that were allowed to fail."""
    excused: set[str] = set()
    for entry in experiment.faults.log():
        if "kind" not in entry:
            continue
        generation = entry.get("generation", "")
        failure = failures.get(generation, "")
        if (sentence := ALLOWED_ERRORS.get(entry["kind"])) and sentence in failure:
            failure = ""
            excused.add(generation)
        experiment.tally.count((entry["kind"], entry["target"], entry["point"]), failure)
    if any(kind == "fill" for kind, _, _ in experiment.tally.tried):
        # a full disk may fail every generation that runs until there is space again
        excused |= {id_ for id_, failure in failures.items() if ALLOWED_ERRORS["fill"] in failure}
    return excused


def _swept_videos(experiment: Experiment) -> list[Path]:
    """The files in the folder of videos, after the server has had time to remove unfinished ones."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while True:
        files = list((experiment.server.data_dir / "videos").iterdir())
        if time.monotonic() > deadline or not any(path.suffix == ".part" for path in files):
            return files
        time.sleep(1)


def _repeated(experiment: Experiment) -> dict[str, Any]:
    """The work that was repeated after each kill: its share of a generation, and seconds."""
    reached: dict[str, float] = {}
    repeated = []
    for entry in experiment.faults.log():
        if entry.get("kind") == "kill" and "reached" in entry:
            reached[entry["generation"]] = entry["reached"]
        elif "started_at" in entry and entry["generation"] in reached:
            repeated.append(max(0.0, reached.pop(entry["generation"]) - entry["started_at"]))
    if not repeated:
        return {"kills_that_repeat": 0}
    return {
        "kills_that_repeat": len(repeated),
        "repeated_percent_median": round(100 * statistics.median(repeated), 2),
        "repeated_percent_p95": round(100 * percentile(repeated, 95), 2),
        "repeated_seconds_median": round(experiment.seconds_per_generation * statistics.median(repeated), 3),
        "repeated_seconds_max": round(experiment.seconds_per_generation * max(repeated), 3),
    }
