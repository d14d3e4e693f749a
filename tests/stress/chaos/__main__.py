"""Chaos test: injects faults of every kind at every stage, against a real server with the demo weights.

python -m tests.stress.chaos [--generations 200] [--kills 120] [--seed 0]

First each request is made once without faults: these videos are the references. Then all generations are queued, and
faults are injected one after another while they run. At the end every row, every file and every attempt is checked. The
table shows how often each fault was injected at each point and survived: its generation must have ended as it should,
and its video, if there is one, must equal the reference byte for byte.
"""

import json
import os
import random
import shutil
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.report import show
from tests.stress.chaos.experiment import Experiment
from tests.stress.chaos.faults import BALLAST, VARIABLE
from tests.stress.chaos.scenarios import break_the_worker, disturb_the_machine, fill_the_disk, kill_at_random
from tests.stress.chaos.verification import verify


def main() -> None:
    """Inject all faults, verify, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ[VARIABLE], os.environ[BALLAST] = str(folder / "faults"), str(folder / "disk" / "ballast")
    began = time.monotonic()
    experiment = Experiment(folder)
    try:
        experiment.server.start()
        experiment.make_references()
        experiment.enqueue(options.generations)
        kill_at_random(experiment, options.kills, random.Random(options.seed))
        break_the_worker(experiment)
        fill_the_disk(experiment)
        disturb_the_machine(experiment)
        figures = verify(experiment)
        experiment.server.stop()
    finally:
        experiment.server.close()
        if experiment.disk is not None:
            experiment.disk.unmount()
        shutil.rmtree(folder, ignore_errors=True)
    tally = experiment.tally
    rows = [(*what, f"{tally.survived[what]} of {tried}") for what, tried in sorted(tally.tried.items())]
    print(json.dumps(tally.failures, indent=1))
    show(
        "chaos",
        rows,
        {
            **figures,
            "tried": tally.tried.total(),
            "survived": tally.survived.total(),
            "seconds_per_generation": round(experiment.seconds_per_generation, 2),
            "minutes": round((time.monotonic() - began) / 60, 1),
        },
        columns=("fault", "of", "at", "survived"),
    )


if __name__ == "__main__":
    main()
