"""The server's own overhead, measured on this machine with the demo weights.

python -m benchmarks.server.overhead [--pairs 24]

It measures the time from start to the first response and the memory then; the latency of enqueueing and polling while a
generation runs; the delay of an event; and the overhead over the same video made by calling `pipelines.runner.runner`
directly, in alternating pairs of jobs that both write their file.
"""

import json
import sqlite3
import statistics
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.report import bootstrap, percentile, show
from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.runner.runner import Runner
from tests.support.server_process import MODEL, ServerProcess

# a few seconds on two cores
JOB: dict[str, Any] = {
    "model": MODEL,
    "prompt": "An ox by a lake",
    "negative_prompt": " ",
    "width": 416,
    "height": 240,
    "num_frames": 81,
    "num_inference_steps": 30,
    "guidance_scale": 5.0,
}
LONG = {**JOB, "width": 832, "height": 480, "num_inference_steps": 100}
STARTS = 5
PAUSE_SECONDS = 0.02


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def start_up(folder: Path) -> tuple[list[float], float]:
    """Seconds to the first response of /healthz, several times; MiB of memory when idle."""
    seconds, memory = [], 0
    for number in range(STARTS):
        server = ServerProcess(folder / f"start{number}")
        seconds.append(server.start())
        assert server.process is not None
        memory = psutil.Process(server.process.pid).memory_info().rss
        server.stop()
        server.close()
    return seconds, memory / 2**20


def latencies(server: ServerProcess, requests: int) -> tuple[list[float], list[float]]:
    """Seconds to enqueue, and to poll a row, while a generation runs."""
    running = server.enqueue(**LONG)
    while server.row(running)["progress"] == 0:
        time.sleep(PAUSE_SECONDS)
    enqueue, poll, ids = [], [], []
    for _ in range(requests):
        enqueue.append(timed(lambda: ids.append(server.enqueue(**JOB))))
        poll.append(timed(lambda: server.row(running)))
        time.sleep(PAUSE_SECONDS)
    assert server.row(running)["status"] == "processing", "the long generation ended before the measurement"
    for id_ in [running, *ids]:
        server.http.delete(f"/queue/{id_}")
    return enqueue, poll


def event_delays(server: ServerProcess, generations: int) -> list[float]:
    """Seconds from a generation's completion, by the database, to its event's arrival at a client."""
    arrived: dict[str, float] = {}
    listening = threading.Event()

    def listen() -> None:
        with httpx.stream("GET", f"{server.url}/api/events", timeout=60) as stream:
            listening.set()
            name = ""
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and name == "media_generation_completed":
                    arrived[json.loads(line.removeprefix("data: "))["generation_id"]] = time.time()
                    if len(arrived) == generations:
                        return

    listener = threading.Thread(target=listen)
    listener.start()
    listening.wait()
    small = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
    for _ in range(generations):
        server.wait_for(server.enqueue(**small), "succeeded")
    listener.join()
    with sqlite3.connect(f"file:{server.data_dir / 'paddock.db'}?mode=ro", uri=True) as records:
        completed = dict(records.execute("SELECT id, completed_at FROM generations"))
    return [moment - completed[id_] for id_, moment in arrived.items()]


def cost_pairs(server: ServerProcess, runner: Runner, folder: Path, pairs: int) -> list[tuple[float, float]]:
    """Seconds of the same job, directly and through the server, each of them first in every second pair."""

    def directly(seed: int) -> float:
        params = VideoParams(**{name: value for name, value in JOB.items() if name != "model"}, seed=seed)
        return timed(lambda: runner.run(params, folder / f"direct{seed}.mp4"))

    def served(seed: int) -> float:
        return timed(lambda: server.http.post("/videos/generate", json={**JOB, "seed": seed}).raise_for_status())

    directly(0), served(0)
    found = []
    for seed in range(1, pairs + 1):
        if seed % 2:
            direct = directly(seed)
            found.append((direct, served(seed)))
        else:
            through = served(seed)
            found.append((directly(seed), through))
    return found


def main() -> None:
    """Measure, print a table and one JSON line."""
    options = ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=24)
    options.add_argument("--requests", type=int, default=300)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts, idle = start_up(folder)
        server = ServerProcess(folder / "data")
        server.start()
        runner = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")
        delays = event_delays(server, 30)
        pairs = cost_pairs(server, runner, folder, chosen.pairs)
        enqueue, poll = latencies(server, chosen.requests)
        assert server.process is not None
        busy = psutil.Process(server.process.pid).memory_info().rss / 2**20
        server.stop()
        server.close()
    costs = [served / direct - 1 for direct, served in pairs]
    low, high = bootstrap(costs)
    direct = statistics.median(direct for direct, _ in pairs)
    figures = {
        "start_seconds_median": round(statistics.median(starts), 3),
        "start_seconds_max": round(max(starts), 3),
        "memory_mib_idle": round(idle, 1),
        "memory_mib_after": round(busy, 1),
        "enqueue_ms_p50": milliseconds(percentile(enqueue, 50)),
        "enqueue_ms_p99": milliseconds(percentile(enqueue, 99)),
        "poll_ms_p50": milliseconds(percentile(poll, 50)),
        "poll_ms_p99": milliseconds(percentile(poll, 99)),
        "event_ms_p50": milliseconds(percentile(delays, 50)),
        "event_ms_max": milliseconds(max(delays)),
        "pairs": len(pairs),
        "direct_seconds_median": round(direct, 3),
        "server_cost_percent_median": round(statistics.median(costs) * 100, 2),
        "server_cost_percent_95": [round(low * 100, 2), round(high * 100, 2)],
        "server_cost_ms_median": milliseconds(statistics.median(served - direct for direct, served in pairs)),
    }
    show("server", rows(figures), figures)


def rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The figures as rows of a table."""
    low, high = figures["server_cost_percent_95"]
    return [
        (
            "start to first answer",
            f"{figures['start_seconds_median']} s",
            f"{STARTS} starts, longest {figures['start_seconds_max']} s",
        ),
        (
            "server memory",
            f"{figures['memory_mib_idle']} MiB",
            f"{figures['memory_mib_after']} MiB at the end; no torch in it",
        ),
        ("enqueue, p50 / p99", f"{figures['enqueue_ms_p50']} / {figures['enqueue_ms_p99']} ms", "a generation running"),
        ("poll, p50 / p99", f"{figures['poll_ms_p50']} / {figures['poll_ms_p99']} ms", "a generation running"),
        ("completion to event, p50 / max", f"{figures['event_ms_p50']} / {figures['event_ms_max']} ms", "30 events"),
        (
            "server's overhead on a video",
            f"{figures['server_cost_percent_median']} %",
            f"95 %: {low} to {high} %; median of {figures['pairs']} pairs of {figures['direct_seconds_median']} s",
        ),
    ]


if __name__ == "__main__":
    main()
