"""Time and memory of a video by frames, size and steps, and the accuracy of the server's estimates.

python -m benchmarks.server.cost

The first part makes a grid of videos as a worker does and fits them as `server.core.estimator` does: a step's seconds
per pixel and the remaining seconds, both by the number of pixels. The second part requests videos of many sizes from a
server and compares each `eta_seconds` of its event stream with the actual time, from the third generation on.
"""

import json
import random
import resource
import shlex
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import percentile, show
from paddock.events import read_events
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from server.core.durations import RunDurations
from server.core.estimator import rest_seconds, step_seconds
from tests.support.server_process import MODEL, ServerProcess

MIB = 2**20
SEED = 20261126
KNOWN_AFTER = 2
"""The first generations of a server, whose estimates are reported separately."""


@dataclass(frozen=True, slots=True)
class Size:
    """A video: sides in pixels, length in frames, steps."""

    width: int
    height: int
    frames: int
    steps: int

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.width * self.height * self.frames

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames, {self.steps} steps"


GRID = [
    Size(208, 120, 17, 8),
    Size(416, 240, 17, 8),
    Size(416, 240, 33, 8),
    Size(416, 240, 33, 16),
    Size(416, 240, 81, 8),
    Size(624, 352, 33, 8),
    Size(832, 480, 33, 4),
]
"""In ascending order, so that the peak memory so far is that of each video."""


def grid() -> tuple[list[RunDurations], list[tuple[str, ...]], list[dict[str, Any]]]:
    """Make every video of the grid; returns the durations, the table and the figures."""
    runner = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")
    runs: list[RunDurations] = []
    rows: list[tuple[str, ...]] = []
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted(GRID, key=lambda size: size.pixels):
            reports: list[Progress] = []
            params = VideoParams("a red circle", " ", size.height, size.width, size.frames, size.steps, 5.0, 0)
            runner.run(params, Path(folder) / "video.mp4", Callbacks(reports.append))
            denoising = [report for report in reports if report.stage is Stage.DENOISE]
            step = (denoising[-1].seconds - denoising[0].seconds) / size.steps
            rest = reports[-1].seconds - denoising[-1].seconds
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
            runs.append(RunDurations(size.pixels, step, rest))
            rows.append((str(size), f"{step:.3f} s", f"{rest:.2f} s", f"{memory:.0f} MiB"))
            figures.append({"size": str(size), "pixels": size.pixels, "step_s": step, "rest_s": rest, "mib": memory})
            print("  ".join(rows[-1]), file=sys.stderr)
    return runs, rows, figures


def estimator_errors(runs: Sequence[RunDurations]) -> dict[str, float]:
    """Median relative errors of the estimate for each size from all other sizes."""
    steps, rests = [], []
    for run in runs:
        others = [other for other in runs if other.pixels != run.pixels]
        steps.append(abs((step_seconds(others, run.pixels) or 0.0) / run.step - 1))
        rests.append(abs((rest_seconds(others, run.pixels) or 0.0) / run.rest - 1))
    return {"step_error": statistics.median(steps), "rest_error": statistics.median(rests)}


def sizes(count: int) -> list[Size]:
    """Random videos of various sizes, lengths and numbers of steps."""
    rng = random.Random(SEED)
    sides = [(208, 120), (416, 240), (320, 320), (240, 416), (480, 272)]
    return [Size(*rng.choice(sides), rng.choice([17, 25, 33, 49]), rng.choice([8, 12, 16, 20])) for _ in range(count)]


def eta_errors(count: int) -> list[list[float]]:
    """The relative errors of each generation's `eta_seconds`, over the actual remaining time."""
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "data")
        server.start()
        try:
            for size in sizes(count):
                errors.append(_watch(server, size))
                print(f"{size}: {len(errors[-1])} estimates", file=sys.stderr)
        finally:
            server.stop()
            server.close()
    return errors


def _watch(server: ServerProcess, size: Size) -> list[float]:
    estimates: list[tuple[float, float]] = []
    with server.http.stream("GET", f"{server.url}/api/events", timeout=600) as stream:
        id_ = server.enqueue(
            model=MODEL,
            prompt="a red circle",
            width=size.width,
            height=size.height,
            num_frames=size.frames,
            num_inference_steps=size.steps,
        )
        for sent in read_events(stream.iter_bytes()):
            event = json.loads(sent.data)
            if event["generation_id"] != id_:
                continue
            now = time.monotonic()
            if event["status"] != "processing":
                break
            if event.get("eta_seconds"):
                estimates.append((now, event["eta_seconds"]))
    end = time.monotonic()
    # rows round to a tenth of a second
    return [abs(eta - (end - now)) / (end - now) for now, eta in estimates if end - now > 1.0]


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=12)
    options = parser.parse_args()
    runs, rows, figures = grid()
    fitted = estimator_errors(runs)
    errors = eta_errors(options.generations)
    first = [error for generation in errors[:KNOWN_AFTER] for error in generation]
    later = [error for generation in errors[KNOWN_AFTER:] for error in generation]
    found: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.server.cost", *sys.argv[1:]]),
        "grid": figures,
        **fitted,
        "eta_error_first": statistics.median(first) if first else None,
        "eta_error": statistics.median(later),
        "eta_error_p90": percentile(later, 90),
        "estimates": len(later),
    }
    rows.append(
        (
            "estimate from the other sizes: median error",
            f"{fitted['step_error']:.1%}",
            f"{fitted['rest_error']:.1%}",
            "",
        )
    )
    rows.append((f"error of eta_seconds, first {KNOWN_AFTER} generations", f"{found['eta_error_first']:.1%}", "", ""))
    rows.append(("error of eta_seconds afterwards, median", f"{found['eta_error']:.1%}", f"{len(later)} estimates", ""))
    show("cost", rows, found, ("what", "a step", "the rest", "peak memory so far"))


if __name__ == "__main__":
    main()
