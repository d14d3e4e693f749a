"""Time saved by letting threads sleep while they wait for each other, on a CPU that other processes use too.

python -m benchmarks.cpu.waiting --pairs 5

OpenMP's threads spin while they wait, unless they are set to sleep. When one of them loses its core to another process,
all others then wait for it at full load. The demo's video is made both ways in turn, each in a process of its own,
beside one process that keeps a core busy.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.cpu.allocator import measure
from benchmarks.report import bootstrap, show
from server.engine.subprocess.environment import WAITING

USUAL = dict.fromkeys(WAITING, "")
BUSY = "while True: pass"


@contextmanager
def busy_processes(processes: int) -> Iterator[None]:
    """A context in which so many other processes keep a core busy each."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Measure in pairs, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--busy", type=int, default=1, help="number of busy processes")
    options = parser.parse_args()
    with busy_processes(options.busy):
        pairs = [(measure(USUAL)["wall"], measure(WAITING)["wall"]) for _ in range(options.pairs)]
    ratios = [asleep / spinning for spinning, asleep in pairs]
    low, high = bootstrap(ratios)
    spinning, asleep = (statistics.median(runs) for runs in zip(*pairs, strict=True))
    rows = [
        ("a video of the demo, 4 steps, threads that spin", f"{spinning:.2f} s", ""),
        ("the same, threads that sleep", f"{asleep:.2f} s", ""),
        ("ratio", f"{statistics.median(ratios):.2f}", f"95 %: {low:.2f} to {high:.2f}"),
    ]
    figures = {"pairs": options.pairs, "busy": options.busy, "processors": os.cpu_count()}
    figures |= {"ratio": statistics.median(ratios), "spinning_s": spinning, "asleep_s": asleep}
    show("waiting", rows, figures)


if __name__ == "__main__":
    main()
