"""What one claim costs by the number of tenants, alone on the database, and PostgreSQL's plan of its statements.

python -m benchmarks.scaling.claim [--queued 100000] [--tenants 1 10 100 1000] [--claims 200]
    [--history 20000] [--plans]

A device claims one generation after another, once with no model loaded and once going on with the weights of its last
generation. Milliseconds are of the whole call: on its thread, in its transaction, with its commit on the disk. CPU time
is told, too: unlike the rest it hardly depends on what else the machine does.
"""

import asyncio
import shlex
import statistics
import sys
import time
from argparse import ArgumentParser
from typing import Any

from sqlalchemy import Connection, event

from benchmarks.report import percentile, show
from benchmarks.scaling.database import DURABLE, Meter
from benchmarks.scaling.workload import Workload, fill
from server.core.fair_queue import Weights
from server.core.generation import Generation
from tests.support.postgres import PostgresServer
from tests.support.records import StandaloneStore

LEASE = 3_600.0
OVERTAKES = 4


class Statements:
    """The statements that an engine sends, with their parameters, the last ones of each text."""

    def __init__(self, engine: Any) -> None:
        self.count = 0
        self.seconds = 0.0
        self.sent: dict[str, Any] = {}
        self._began = 0.0
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, _tx: Connection, _cursor: Any, _text: str, _parameters: Any, *_: Any) -> None:
        self._began = time.perf_counter()

    def _after(self, _tx: Connection, _cursor: Any, text: str, parameters: Any, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began
        self.count += 1
        self.sent[text] = parameters


async def take(store: StandaloneStore, claims: int, meter: Meter, *, goes_on: bool) -> dict[str, Any]:
    """The figures of so many claims, one after another."""
    statements = Statements(store.engine)
    held: Generation | None = await store.attempts.claim("bench/0", LEASE)
    statements.count, statements.seconds, taken = 0, 0.0, []
    meter.start()
    own = time.process_time()
    for _ in range(claims):
        weights: Weights | None = held.weights if goes_on and held is not None else None
        began = time.perf_counter()
        held = await store.attempts.claim("bench/0", LEASE, weights)
        taken.append(time.perf_counter() - began)
        assert held is not None, "there are more queued than claims"
    own = time.process_time() - own
    load = meter.stop()
    return {
        "p50_ms": round(statistics.median(taken) * 1000, 2),
        "p99_ms": round(percentile(taken, 99) * 1000, 2),
        "statements": round(statements.count / claims, 1),
        "database_ms": round(statements.seconds / claims * 1000, 2),
        "database_cpu_ms": round(load.cpu / claims * 1000, 2),
        "server_cpu_ms": round(own / claims * 1000, 2),
        "sent": statements.sent,
    }


def explained(store: StandaloneStore, sent: dict[str, Any]) -> list[str]:
    """PostgreSQL's plans of the statements that read the queue, with what they read and how long they took."""
    found = []
    with store.engine.begin() as tx:
        for text, parameters in list(sent.items()):
            if "generations" in text and text.lstrip().startswith(("SELECT", "WITH")):
                rows = tx.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {text}", parameters)
                found += [f"-- {' '.join(text.split())}", *(row[0] for row in rows), ""]
    return found


def measure(server: PostgresServer, workload: Workload, claims: int, *, plans: bool) -> dict[str, Any]:
    """The figures of one number of tenants."""
    name = server.create()
    fill(server.url(name), workload)
    figures: dict[str, Any] = {}
    for way, goes_on in (("no model", False), ("going on", True)):
        store = StandaloneStore(server.url(name), max_overtakes=OVERTAKES, server="bench")
        found = asyncio.run(take(store, claims, Meter(server, name), goes_on=goes_on))
        sent = found.pop("sent")
        if plans:
            print(f"== {workload.tenants} tenants, {way}", *explained(store, sent), sep="\n")
        store.close()
        figures[way] = found
        print(workload.tenants, way, found, file=sys.stderr)
    server.drop(name)
    return figures


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, nargs="+", default=[1, 10, 100, 1_000])
    parser.add_argument("--claims", type=int, default=200)
    parser.add_argument("--history", type=int, default=20_000)
    parser.add_argument("--plans", action="store_true")
    options = parser.parse_args()
    server = PostgresServer(DURABLE)
    server.start()
    try:
        found = {
            tenants: measure(
                server, Workload(options.queued, tenants, history=options.history), options.claims, plans=options.plans
            )
            for tenants in options.tenants
        }
    finally:
        server.stop()
    table = [
        (
            f"{tenants} tenants, {way}",
            f"{each['p50_ms']} ms, p99 {each['p99_ms']} ms",
            f"{each['statements']} statements, CPU {each['database_cpu_ms']} + {each['server_cpu_ms']} ms",
        )
        for tenants, figures in found.items()
        for way, each in figures.items()
    ]
    called = shlex.join(["python", "-m", "benchmarks.scaling.claim", *sys.argv[1:]])
    columns = ("what", "figure", "note: CPU of the database and of the server")
    show("claim", table, {**vars(options), "command": called, "tenants": found}, columns)


if __name__ == "__main__":
    main()
