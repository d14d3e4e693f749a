"""What it costs that servers on one PostgreSQL database tell each other of changes, and how soon they hear.

python -m benchmarks.server.sharing [--rounds 300]

On a PostgreSQL of its own, which like that of the tests does not wait for its disk: seconds to record a generation with
and without its notification, in turns; to record the progress of eight attempts; to lock and let go; and from a commit
on one server until another one has read the row. Medians.
"""

import asyncio
import shlex
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from uuid import uuid4

from benchmarks.report import show
from pipelines.core.request import VideoParams
from server.core.events import Live
from server.core.generation import Generation, Origin, Status
from server.storage.db.records import QueueLimits
from server.storage.db.sharing.locks import Lock
from tests.support.postgres import PostgresServer
from tests.support.records import StandaloneStore

DEVICES = 8

_WHAT = {
    "without": "record a generation, told to nobody",
    "with": "record a generation",
    "heard": "from its commit until another server has read the row",
    "progress": f"record the progress of {DEVICES} attempts",
    "lock": "share the lock of inputs and let go",
}


def main() -> None:
    """Run everything and print the figures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    postgres = PostgresServer()
    try:
        postgres.start()
        found = asyncio.run(_measure(postgres.url(postgres.create()), options.rounds))
    finally:
        postgres.stop()
    rows = [(_WHAT[name], f"{value} ms") for name, value in found.items()]
    show("sharing", rows, {"command": shlex.join(sys.orig_argv), **found}, ("what", "median"))


async def _measure(url: str, rounds: int) -> dict[str, float]:
    here, there = StandaloneStore(url, server="here"), StandaloneStore(url, server="there")
    silent = StandaloneStore(url, server="here")
    silent.submissions.tell = lambda tx, ids: None  # type: ignore[method-assign]
    try:
        seconds: dict[str, list[float]] = {name: [] for name in _WHAT}
        async with aclosing(there.listener.changes()) as changes:
            assert await anext(changes) is None
            for _ in range(rounds):
                seconds["without"].append(await _timed(lambda: silent.submissions.insert([_new()], QueueLimits(10**6))))
                began = time.perf_counter()
                seconds["with"].append(await _timed(lambda: here.submissions.insert([_new()], QueueLimits(10**6))))
                ids = await anext(changes)
                await there.history.changed(ids or ())
                seconds["heard"].append(time.perf_counter() - began - seconds["with"][-1])
        held = [each for _ in range(DEVICES) if (each := await here.attempts.claim("here/device", 60)) is not None]
        lives = {(each.id, each.attempt): Live(0.5, 60.0, "denoising", 8, 16, 8) for each in held}

        async def lock() -> None:
            async with here.locks.shared(Lock.INPUTS):
                pass

        for _ in range(rounds):
            seconds["progress"].append(await _timed(lambda: here.live_progress.record(lives)))
            seconds["lock"].append(await _timed(lock))
    finally:
        for store in (here, there, silent):
            store.close()
    return {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _new() -> Generation:
    return Generation(
        id=str(uuid4()),
        model="wan",
        status=Status.QUEUED,
        origin=Origin.QUEUE,
        enqueued_at=time.time(),
        parameters={"prompt": "an ox"},
        params=VideoParams("an ox", " ", 64, 64, 5, 2, 5.0, 7),
    )


if __name__ == "__main__":
    main()
