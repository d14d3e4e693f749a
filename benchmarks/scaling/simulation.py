"""A simulation of 1 to 512 devices and a queue of 100,000, on PostgreSQL with several servers, and on SQLite.

python -m benchmarks.scaling.simulation [--devices 1 8 64 512] [--generation 60 10] [--servers 4] [--queued 100000]
    [--tenants 1000] [--seconds 40] [--idle] [--sqlite]

Each server is a process with the records and the scheduler of a real one; its devices compute nothing and need no
torch. The generations last a plausible time, and a short one, to find where it bends. Clients enqueue as many as are
finished. With --idle nothing is queued: what is enqueued finds all devices idle. With --sqlite the database is a file,
and there is one server. The first row of each is one device on a short queue, for comparison: machines differ, and
their other work does.
"""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import show
from benchmarks.scaling.database import DURABLE, Meter
from benchmarks.scaling.fleet import Fleet, Window, simulate
from benchmarks.scaling.synthetic_device import Pace
from benchmarks.scaling.workload import Workload, fill
from tests.support.postgres import PostgresServer

LEAST_RATE = 2.0
"""So many generations are enqueued a second at least, so that there is something to measure."""

IDLE_SHARE = 0.05
"""Of the devices so many work, with --idle."""

SHORT = Workload(queued=100, tenants=1, models=1, history=0)


def fleets(options: Namespace) -> Iterator[Fleet]:
    """The cases, in their order."""
    for generation in options.generation:
        for devices in options.devices:
            rate = max(LEAST_RATE, devices / generation * (IDLE_SHARE if options.idle else 1))
            servers = 1 if options.sqlite else min(options.servers, devices)
            yield Fleet(devices, servers, Pace(generation), rate)


def baseline(options: Namespace) -> Fleet:
    """One device on one server, with short generations, so that there are some to measure."""
    return Fleet(1, 1, Pace(min(1.0, *options.generation)), LEAST_RATE)


def on_postgresql(options: Namespace, workload: Workload, window: Window) -> Iterator[dict[str, Any]]:
    """Measure each case on a copy of the same database."""
    server = PostgresServer(DURABLE)
    server.start()
    try:
        filled = {each: server.create() for each in (SHORT, workload)}
        for each, name in filled.items():
            fill(server.url(name), each)
        for fleet, each in _cases(options, workload):
            name = server.create(filled[each])
            server.execute("CHECKPOINT")
            yield simulate(fleet, server.url(name), each, window, Meter(server, name)) | {"queued": each.queued}
            server.drop(name)
    finally:
        server.stop()


def on_sqlite(options: Namespace, workload: Workload, window: Window) -> Iterator[dict[str, Any]]:
    """Measure each case on a file of its own."""
    for fleet, each in _cases(options, workload):
        with TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 'paddock.db'}"
            fill(url, each)
            yield simulate(fleet, url, each, window, None) | {"queued": each.queued}


def _cases(options: Namespace, workload: Workload) -> Iterator[tuple[Fleet, Workload]]:
    yield baseline(options), SHORT
    for fleet in fleets(options):
        yield fleet, workload


def row(figures: dict[str, Any], first: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table; times are also told as multiples of the baseline's."""
    calls, database = figures["calls"], figures["database"] or {}
    case = f"{figures['devices']} × {figures['generation_s']:g} s, {figures['servers']} servers"
    return (
        f"{case}, {figures['queued']} queued",
        f"{figures['claims_per_second']:g}, {figures['runs_per_second']:g}",
        _times(calls["claim"], first["calls"]["claim"]),
        _times(calls["enqueue"], first["calls"]["enqueue"]),
        _times(calls["renew"], first["calls"]["renew"]),
        _times(figures["free_to_working"], {}),
        _times(figures["enqueued_to_working"], {}),
        f"{figures['start'].get('max', 0) / 1000:.2f} s",
        f"{database.get('statements_per_second', '–')}",
        f"{database.get('cores', '–')}, {figures['servers_cores']}",
    )


COLUMNS = (
    "devices",
    "claims, runs a second",
    "claim, p50/p99 ms (× baseline's p50)",
    "enqueue",
    "renew",
    "free to working",
    "enqueued to working",
    "all placed at start",
    "statements a second",
    "cores: database, servers",
)


def _times(spread: dict[str, Any], first: dict[str, Any]) -> str:
    if not spread["count"]:
        return "–"
    ratio = f" (×{spread['p50'] / first['p50']:.1f})" if first.get("p50") else ""
    return f"{spread['p50']:g}/{spread.get('p99', '–')}{ratio}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--generation", type=float, nargs="+", default=[60.0, 10.0])
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--history", type=int, default=20_000)
    parser.add_argument("--warm-up", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--sqlite", action="store_true")
    options = parser.parse_args(arguments)
    queued = 0 if options.idle else options.queued
    workload = Workload(queued, options.tenants, options.models, options.history)
    measure, window = on_sqlite if options.sqlite else on_postgresql, Window(options.warm_up, options.seconds)
    load = os.getloadavg()[0]
    found: list[dict[str, Any]] = []
    for figures in measure(options, workload, window):
        found.append(figures)
        print(row(figures, found[0]), file=sys.stderr)
    called = ["python", "-m", "benchmarks.scaling.simulation", *(sys.argv[1:] if arguments is None else arguments)]
    told = {"command": shlex.join(called), "load_before": round(load, 2), "tenants": options.tenants, "cases": found}
    show("simulation", [row(each, found[0]) for each in found], told, COLUMNS, width=200)


if __name__ == "__main__":
    main()
