"""How soon a worker is there: started as a process of its own, and forked from a template that has the libraries.

python -m benchmarks.server.worker_start --rounds 5

A round measures both ways, one after the other: the first video of a new server, from the server's start; and a worker
that was killed, from the next request to its first denoising step.
"""

import argparse
import os
import shlex
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import bootstrap, show
from tests.support.server_process import ServerProcess, eventually, is_alive

WAYS = {"own process": "off", "forked": "on"}
FIRST, AGAIN = "first video after the start", "killed worker: request to first step"


def first_progress(server: ServerProcess, generation_id: str) -> None:
    """Wait until a generation has begun to denoise."""
    eventually(lambda: server.row(generation_id)["progress"] > 0, server)


def measure(warm_workers: str, idle: float) -> dict[str, float]:
    """Seconds of each figure, on a server with this setting that has `idle` seconds before its first request."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data", warm_workers=warm_workers)
        try:
            server.start()
            time.sleep(idle)
            began = time.monotonic()
            server.video(server.enqueue())
            first = time.monotonic() - began
            (worker,) = server.worker_pids()
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: not is_alive(worker), server)
            began = time.monotonic()
            generation_id = server.enqueue(num_inference_steps=20)
            first_progress(server, generation_id)
            again = time.monotonic() - began
            server.wait_for(generation_id, "succeeded")
            return {FIRST: first, AGAIN: again}
        finally:
            server.stop()
            server.close()


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=15.0, help="seconds between the start and the first request")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in sorted(WAYS, reverse=bool(number % 2)):
            found[way].append(measure(WAYS[way], options.idle))
    rows, figures = [], {}
    for name in (FIRST, AGAIN):
        medians = {way: statistics.median(one[name] for one in found[way]) for way in WAYS}
        ratios = [forked[name] / own[name] for own, forked in zip(found["own process"], found["forked"], strict=True)]
        low, high = bootstrap(ratios)
        ratio = statistics.median(ratios)
        rows.append((name, *(f"{medians[way]:.2f} s" for way in WAYS), f"{ratio:.2f} ({low:.2f} to {high:.2f})"))
        figures[name] = {**medians, "ratio": ratio, "ratio_95": [low, high]}
    command = shlex.join(["python", "-m", "benchmarks.server.worker_start", *sys.argv[1:]])
    figures_of_run = {"command": command, "idle_s": options.idle, "figures": figures}
    show("worker_start", rows, figures_of_run, ("what", *WAYS, "forked / own process (95 %)"))


if __name__ == "__main__":
    main()
