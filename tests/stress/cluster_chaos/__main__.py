"""Chaos test of a cluster: three machines, two servers, one PostgreSQL and one object store, all on loopback.

python -m tests.stress.cluster_chaos [--generations 200] [--rounds 3] [--seed 0] [--only FAULT]

First the video of each seed is made without faults. Then generations are queued on both servers, and in each round
every fault is injected once, in random order. At the end every row, attempt, file, event and process is checked. The
table shows how long it took until the attempt that a fault broke had ended, and until the next one had begun: median
and longest, in seconds.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.report import show
from server.engine.ray.options import RAY_FOLDER
from tests.stress.cluster_chaos.faults import Faults
from tests.stress.cluster_chaos.leftovers import Leftovers
from tests.stress.cluster_chaos.system import System
from tests.stress.cluster_chaos.verification import verify

_INSIDE = "CLUSTER_CHAOS_INSIDE"


def main() -> None:
    """Inject all faults, verify, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a fault's name; may be given several times")
    options = parser.parse_args()
    if _INSIDE not in os.environ:
        raise SystemExit(_in_own_network())
    _run(options)


def _in_own_network() -> int:
    """Run this program again where loopback is the only network, and no other cluster's files are.

    `ray start` listens on the network card's address where there is one.
    """
    as_user = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
    RAY_FOLDER.mkdir(mode=0o700, exist_ok=True)
    apart = f"ip link set lo up && mount -t tmpfs -o mode=700 tmpfs {RAY_FOLDER} && exec"
    again = " ".join([apart, sys.executable, "-m", "tests.stress.cluster_chaos", '"$@"'])
    command = ["unshare", "--net", "--mount", *as_user, "bash", "-c", again, "chaos", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode


def _run(options: Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="cluster-chaos-"))
    began = time.monotonic()
    system = System(folder)
    leftovers = Leftovers(system.machines.values)
    faults = Faults(system, random.Random(options.seed))
    try:
        system.start()
        system.make_references()
        system.enqueue(options.generations)
        for name in faults.in_random_order(options.rounds):
            if not options.only or name in options.only:
                print(f"{time.monotonic() - began:6.0f} s: {name}", file=sys.stderr, flush=True)
                faults.inject(name)
        figures = verify(system, leftovers)
    except BaseException:
        print(f"logs are kept in {folder}", file=sys.stderr)
        raise
    finally:
        leftovers.end()
        system.close()
    if figures_are_good(figures):
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        (name, str(len(times.noticed)), str(times.unharmed), *map(_seconds, (times.noticed, times.resumed)))
        for name, times in sorted(faults.times.items())
    ]
    show(
        "cluster_chaos",
        rows,
        {**figures, "minutes": round((time.monotonic() - began) / 60, 1)},
        columns=(
            "fault",
            "attempts broken",
            "unharmed",
            "ended after s",
            "next began after s",
        ),
    )
    if not figures_are_good(figures):
        raise SystemExit(f"something is wrong; logs are kept in {folder}")


def figures_are_good(figures: dict[str, object]) -> bool:
    """Whether nothing was found that should not be."""
    return not any(value for value in figures.values() if isinstance(value, list))


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}, {max(values):.1f}" if values else "–"


if __name__ == "__main__":
    main()
