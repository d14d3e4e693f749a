"""Time saved by keeping freed memory on a CPU: the demo's video with glibc's default settings and with a worker's.

python -m benchmarks.cpu.allocator --pairs 5

Each run is a process of its own; the settings alternate. CPU time is measured instead of wall time, because a shared
machine changes it less.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from benchmarks.report import bootstrap, show
from server.engine.subprocess.environment import ALLOCATOR

USUAL = dict.fromkeys(ALLOCATOR, "")
MIB = 2**20


def one_video() -> None:
    """Make two videos. Print the second one's CPU seconds and wall seconds, and the peak memory, as JSON."""
    from benchmarks.quality.demo_quality import Setting, make_video
    from pipelines.core.model import ModelSpec
    from pipelines.demo.folder import demo_folder
    from pipelines.runner.runner import Runner

    runner = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")
    setting = Setting(832, 480, 33, 2, 5.0)
    make_video(runner, "a red circle", setting, 0)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    make_video(runner, "a red circle", setting, 1)
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - began
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": spent, "wall": wall, "memory": after.ru_maxrss * 1024}))


def measure(settings: dict[str, str]) -> dict[str, float]:
    """Return the figures of a process with these environment variables; empty ones are unset."""
    kept = {name: value for name, value in os.environ.items() if name not in settings}
    env = {**kept, **{name: value for name, value in settings.items() if value}}
    command = [sys.executable, "-m", "benchmarks.cpu.allocator", "--one"]
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    """Measure in pairs, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one_video()
    pairs = [(measure(USUAL), measure(ALLOCATOR)) for _ in range(options.pairs)]
    ratios = [kept["seconds"] / usual["seconds"] for usual, kept in pairs]
    low, high = bootstrap(ratios)
    usual, kept = (statistics.median(run["seconds"] for run in runs) for runs in zip(*pairs, strict=True))
    memory = [max(run["memory"] for run in runs) / MIB for runs in zip(*pairs, strict=True)]
    rows = [
        ("a video of the demo, 832x480, 33 frames, 2 steps, usual settings", f"{usual:.2f} s", f"{memory[0]:.0f} MiB"),
        ("the same, freed memory kept", f"{kept:.2f} s", f"{memory[1]:.0f} MiB"),
        ("ratio", f"{statistics.median(ratios):.2f}", f"95 %: {low:.2f} to {high:.2f}"),
    ]
    figures = {"pairs": options.pairs, "ratio": statistics.median(ratios), "usual_s": usual, "kept_s": kept}
    return show("allocator", rows, {**figures, "usual_mib": memory[0], "kept_mib": memory[1]})


if __name__ == "__main__":
    main()
