"""Latency and memory of a server under load, while it makes videos with the demo weights.

python -m benchmarks.server.load [--subscribers 1000] [--queued 10000] [--history 100000] [--minutes 10]
python -m benchmarks.server.load --idle [--queued 20] [--history 100000]

First the database is filled with queued and with ended generations. Then event streams are opened; only the system's
buffers read them. Then one client enqueues, polls, lists active generations and reads pages of the history, in turn,
until the time is over. The server's memory is measured at the start and after each minute.

With --idle the server has no subscribers and makes no videos, which gives the cost of the responses themselves.
"""

import asyncio
import os
import random
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psutil

from benchmarks.report import percentile, show
from benchmarks.server.overhead import milliseconds, timed
from pipelines.core.request import VideoParams
from server.core.generation import Generation, Origin, Status
from server.storage.db.records import QueueLimits
from tests.support.records import StandaloneStore
from tests.support.server_process import MODEL, SMALL, ServerProcess

MANY: dict[str, Any] = {"max_connections_per_address": "4096"}
PARAMS = VideoParams("an ox by a lake", " ", 240, 416, 33, 16, 5.0, 1)
BATCH = 5000
PAUSE_SECONDS = 0.02
PAGE = 50
MIB = 2**20
ASKED = ("enqueue", "poll", "active list", "history page")
IDLE_REQUESTS = 500


def fill(data_dir: Path, queued: int, history: int) -> None:
    """Fill the database as after long use: first ended generations, then queued ones."""
    data_dir.mkdir(parents=True)
    store = StandaloneStore(f"sqlite:///{data_dir / 'paddock.db'}")
    now = time.time()
    over = (_over(now - age) for age in range(history, 0, -1))
    waiting = (_waiting(now) for _ in range(queued))

    async def insert() -> None:
        for generations in (over, waiting):
            while batch := [generation for generation, _ in zip(generations, range(BATCH), strict=False)]:
                await store.submissions.insert(batch, QueueLimits(queued + history))

    asyncio.run(insert())
    store.close()


def _waiting(now: float) -> Generation:
    parameters = {name: value for name, value in SMALL.items() if name != "model"}
    return Generation(
        id=str(uuid4()),
        model=MODEL,
        status=Status.QUEUED,
        origin=Origin.QUEUE,
        enqueued_at=now,
        parameters=parameters,
        params=PARAMS,
    )


def _over(then: float) -> Generation:
    status = random.Random(then).choice((Status.SUCCEEDED, Status.FAILED, Status.CANCELLED))
    return replace(_waiting(then), status=status, started_at=then + 1, completed_at=then + 2, attempt=1)


async def subscribe(server: ServerProcess, count: int) -> list[asyncio.StreamWriter]:
    """Open event streams, and wait for the first bytes of each."""
    opened = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**12)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        opened.append(writer)
    return opened


def look(server: ServerProcess, page: int) -> None:
    """Request a page of the history."""
    server.http.get("/generations", params={"page_size": PAGE, "page": page}).raise_for_status()


def ask(
    server: ServerProcess, seconds: float, each_minute: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each request, one after another until the time is over."""
    taken: dict[str, list[float]] = {name: [] for name in ASKED}
    ids: list[str] = []
    pages = server.http.get("/generations", params={"page_size": PAGE}).json()["total_pages"]
    rng = random.Random(0)
    began = time.monotonic()
    ends, minutes = began + seconds, 0
    while time.monotonic() < ends:
        taken["enqueue"].append(timed(lambda: ids.append(server.enqueue())))
        taken["poll"].append(timed(lambda: server.row(ids[-1])))
        taken["history page"].append(timed(partial(look, server, rng.randint(1, pages))))
        # a thousand rows: people request them rarely
        if len(taken["enqueue"]) % 10 == 1:
            taken["active list"].append(timed(lambda: server.http.get("/queue").raise_for_status()))
        time.sleep(PAUSE_SECONDS)
        if time.monotonic() - began >= 60 * (minutes + 1):
            minutes += 1
            each_minute()
    return taken


def ask_idle(server: ServerProcess) -> dict[str, list[float]]:
    """Seconds of each request to a server that does nothing else."""
    some = server.http.get("/queue").json()["generations"][0]["generation_id"]
    pages = server.http.get("/generations", params={"page_size": PAGE}).json()["total_pages"]
    rng = random.Random(0)
    calls: dict[str, Callable[[], object]] = {
        "poll": lambda: server.row(some),
        "active list": lambda: server.http.get("/queue").raise_for_status(),
        "history page": lambda: look(server, rng.randint(1, pages)),
    }
    return {name: [timed(call) for _ in range(IDLE_REQUESTS)] for name, call in calls.items()}


def measure_idle(options: Namespace, folder: Path) -> dict[str, Any]:
    """The figures of a server that starts no generation: it requires more free disk space than there is."""
    fill(folder / "data", options.queued, options.history)
    server = ServerProcess(folder / "data", max_queued=str(options.queued), min_free_bytes=str(2**60), **MANY)
    with ExitStack() as stack:
        stack.callback(server.close)
        started = server.start()
        # warm up its caches
        ask_idle(server)
        taken = ask_idle(server)
        server.stop()
    return {"idle": True, **_about(options, started, taken)}


def _about(options: Namespace, started: float, taken: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "queued": options.queued,
        "history": options.history,
        "start_seconds": round(started, 2),
        "requests": {name: len(seconds) for name, seconds in taken.items()},
        "ms": {name: _spread(seconds) for name, seconds in taken.items()},
    }


def measure(options: Namespace, folder: Path) -> dict[str, Any]:
    """The figures of one server."""
    fill(folder / "data", options.queued, options.history)
    server = ServerProcess(folder / "data", max_queued=str(2 * options.queued + 100_000), **MANY)
    loop = asyncio.new_event_loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(server.close)
        started = server.start()
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        streams = loop.run_until_complete(subscribe(server, options.subscribers))
        for stream in streams:
            stack.callback(stream.transport.abort)
        # warm up its caches, and start the worker
        ask(server, min(20.0, options.minutes * 60 / 4))
        memory = [process.memory_info().rss]
        taken = ask(server, options.minutes * 60, lambda: memory.append(process.memory_info().rss))
        made = server.http.get("/generations", params={"status": "succeeded", "page_size": 1}).json()["total_entries"]
        server.stop()
    return {
        **_about(options, started, taken),
        "subscribers": options.subscribers,
        "minutes": options.minutes,
        "memory_mib": [round(held / MIB, 1) for held in memory],
        "succeeded": made,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    spread = {"p50": statistics.median(seconds), "p99": percentile(seconds, 99), "max": max(seconds)}
    return {name: milliseconds(value) for name, value in spread.items()}


def rows(figures: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The figures as rows of a table."""
    for name, spread in figures["ms"].items():
        text = f"{spread['p50']} / {spread['p99']} ms"
        yield f"{name}, p50 / p99", text, f"{figures['requests'][name]} requests, longest {spread['max']} ms"
    if "minutes" in figures:
        first, *later = figures["memory_mib"]
        text = ", ".join(f"{held:.0f}" for held in later)
        yield "server memory", f"{first:.0f} MiB at first", f"after each minute {text}"
    yield "start to first answer", f"{figures['start_seconds']} s", f"{figures['history']} rows of history"


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--queued", type=int)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--idle", action="store_true")
    options = parser.parse_args()
    if options.queued is None:
        options.queued = 20 if options.idle else 10_000
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    with TemporaryDirectory() as folder:
        figures = (measure_idle if options.idle else measure)(options, Path(folder))
    show("load", list(rows(figures)), figures)


if __name__ == "__main__":
    main()
