"""One server of a simulation, in a process of its own: its records, its scheduler, and devices that compute nothing.

It is started by `benchmarks.scaling.fleet`, which sends `Orders` as a line of JSON, and "go" and "stop" as lines later;
it answers with "ready", and at last with `Samples` as a line of JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.scaling.synthetic_device import Pace, Placements, SyntheticDevice
from benchmarks.scaling.workload import Requests, Workload
from server.core.catalogue import load_catalogue
from server.core.events import Broker
from server.core.settings.settings import Settings
from server.runtime.app import build_files, build_retention
from server.scheduler.dispatcher import Dispatcher, SchedulerOptions
from server.storage.db.connection import opened
from server.storage.db.records import QueueLimits
from server.storage.db.store import Store
from server.storage.files.disk import Disk
from server.storage.files.stores import LocalFolders

LIMITS = QueueLimits(total=10**9, per_tenant=10**9)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a server is to do; `rate` are new generations a second, one request each."""

    name: str
    url: str
    data_dir: str
    devices: int
    workload: Workload
    pace: Pace
    rate: float
    seed: int


@dataclass
class Samples:
    """What a server measured: calls of the store by name, each with its end in Unix seconds and its seconds."""

    calls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    runs: dict[str, float] = field(default_factory=dict)
    enqueued: dict[str, float] = field(default_factory=dict)
    finished: int = 0

    def watch(self, part: Any, name: str, label: str) -> None:
        """Time the calls of a coroutine method of a part of the store."""
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(part, name)
        calls = self.calls.setdefault(label, [])

        @wraps(method)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return await method(*args, **kwargs)
            finally:
                calls.append((time.time(), time.perf_counter() - began))

        setattr(part, name, timed)


async def simulate(orders: Orders, store: Store, go: asyncio.Event, stop: asyncio.Event) -> Samples:
    """Work from `go` to `stop`."""
    samples, placements, dice = Samples(), Placements(), random.Random(orders.seed)
    for part, method, label in (
        (store.attempts, "claim", "claim"),
        (store.attempts, "next", "look ahead"),
        (store.attempts, "renew", "renew"),
        (store.attempts, "succeed", "finish"),
        (store.submissions, "insert", "enqueue"),
    ):
        samples.watch(part, method, label)
    settings = Settings(data_dir=Path(orders.data_dir))
    disk = Disk(settings.data_dir, 0)
    files = build_files(settings, LocalFolders.of(settings.data_dir), disk, ["key"], store.locks)
    retention = build_retention(settings, store.expiry, files, store.locks)
    options = SchedulerOptions(lease=settings.lease)
    await go.wait()
    devices = [
        SyntheticDevice(f"sim:{number}", orders.pace, placements, random.Random(dice.random()))
        for number in range(orders.devices)
    ]
    dispatcher = Dispatcher(store, files, retention, Broker(), load_catalogue(settings), devices, options)
    await dispatcher.start()
    clients = asyncio.create_task(_enqueue(orders, store, dispatcher, samples, dice))
    await stop.wait()
    clients.cancel()
    samples.first, samples.waits, samples.runs = placements.first, placements.waits, placements.runs
    samples.finished = sum(device.finished for device in devices)
    await dispatcher.stop()
    return samples


async def _enqueue(orders: Orders, store: Store, dispatcher: Dispatcher, samples: Samples, dice: random.Random) -> None:
    """Enqueue at the rate, at random moments, as clients do: none waits for another."""
    requests, under_way = Requests(orders.workload, orders.seed), set[asyncio.Task[None]]()

    async def one() -> None:
        generation = requests.one()
        await store.submissions.insert([generation], LIMITS)
        samples.enqueued[generation.id] = time.time()
        # as the service does
        dispatcher.wake()

    while orders.rate > 0:
        await asyncio.sleep(dice.expovariate(orders.rate))
        task = asyncio.create_task(one())
        under_way.add(task)
        task.add_done_callback(under_way.discard)


async def _follow(stack: ExitStack) -> None:
    loop = asyncio.get_running_loop()
    go, stop = asyncio.Event(), asyncio.Event()
    told = json.loads(sys.stdin.readline())
    orders = Orders(**{**told, "workload": Workload(**told["workload"]), "pace": Pace(**told["pace"])})
    engine = stack.enter_context(opened(orders.url))
    store = Store(engine, max_overtakes=Settings().max_overtakes, server=orders.name)
    stack.callback(store.close)
    print("ready", flush=True)

    async def listen() -> None:
        for event in (go, stop):
            # at the end of the parent, too
            await loop.run_in_executor(None, sys.stdin.readline)
            event.set()

    listening = asyncio.create_task(listen())
    samples = await simulate(orders, store, go, stop)
    await listening
    print(json.dumps(asdict(samples)), flush=True)


if __name__ == "__main__":
    with ExitStack() as stack:
        asyncio.run(_follow(stack))
