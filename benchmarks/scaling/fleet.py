"""Servers of a simulation that share one database, started together, and what they measured in a window of time."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.report import percentile
from benchmarks.scaling.database import Meter
from benchmarks.scaling.server_process import Orders
from benchmarks.scaling.synthetic_device import Pace
from benchmarks.scaling.workload import SEED, Workload

END_SECONDS = 120.0
FEW = 20
"""Of fewer calls no percentile is told: it would be the longest one."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many `devices` over so many `servers`, which take `rate` new generations a second in all."""

    devices: int
    servers: int
    pace: Pace
    rate: float

    def shares(self) -> list[int]:
        """The devices of each server."""
        return [len(range(number, self.devices, self.servers)) for number in range(self.servers)]


@dataclass(frozen=True, slots=True)
class Window:
    """So many seconds are measured, so many after the start."""

    warm_up: float
    seconds: float


def simulate(fleet: Fleet, url: str, workload: Workload, window: Window, meter: Meter | None) -> dict[str, Any]:
    """The figures of a fleet on a database; `meter` measures the database itself."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        processes = [
            _started(stack, _orders(fleet, number, devices, url, workload, folder))
            for number, devices in enumerate(fleet.shares())
        ]
        _tell(processes, "go")
        time.sleep(window.warm_up)
        before = [_cpu(process) for process in processes]
        if meter is not None:
            meter.start()
        since = time.time()
        time.sleep(window.seconds)
        until = time.time()
        load = None if meter is None else meter.stop()
        cpu = sum(_cpu(process) - spent for process, spent in zip(processes, before, strict=True))
        memory = max(psutil.Process(process.pid).memory_info().rss for process in processes)
        _tell(processes, "stop")
        samples = [_last_line(process) for process in processes]
    return {
        "devices": fleet.devices,
        "servers": fleet.servers,
        "generation_s": fleet.pace.generation,
        "enqueues_per_second": fleet.rate,
        "window_s": round(until - since, 1),
        "servers_cores": round(cpu / (until - since), 3),
        "server_mib": round(memory / 2**20),
        "start": _start(samples),
        **_measured(samples, since, until),
        "database": None if load is None else load.figures(),
    }


def _orders(fleet: Fleet, number: int, devices: int, url: str, workload: Workload, folder: Path) -> Orders:
    rate, data_dir = fleet.rate / fleet.servers, folder / f"server{number}"
    return Orders(f"server{number}", url, str(data_dir), devices, workload, fleet.pace, rate, SEED + 1 + number)


def _started(stack: ExitStack, orders: Orders) -> "subprocess.Popen[str]":
    Path(orders.data_dir).mkdir()
    called = [sys.executable, "-m", "benchmarks.scaling.server_process"]
    process = subprocess.Popen(called, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(orders)) + "\n")
    process.stdin.flush()
    return process


def _tell(processes: Sequence["subprocess.Popen[str]"], word: str) -> None:
    if word == "go":
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()


def _last_line(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 0, "a server of the simulation failed"
    samples: dict[str, Any] = json.loads(said)
    return samples


def _cpu(process: "subprocess.Popen[str]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def _start(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the devices that all begin at once: until they have work."""
    return spread([seconds for each in samples for seconds in each["first"]])


def _measured(samples: Sequence[dict[str, Any]], since: float, until: float) -> dict[str, Any]:
    calls = {
        name: _within((call for each in samples for call in each["calls"][name]), since, until)
        for name in samples[0]["calls"]
    }
    waits = _within((wait for each in samples for wait in each["waits"]), since, until)
    runs = {id_: at for each in samples for id_, at in each["runs"].items()}
    enqueued = {id_: at for each in samples for id_, at in each["enqueued"].items() if since <= at <= until}
    taken = [runs[id_] - at for id_, at in enqueued.items() if id_ in runs]
    seconds = until - since
    return {
        "claims_per_second": round(len(calls["claim"]) / seconds, 2),
        "runs_per_second": round(sum(since <= at <= until for at in runs.values()) / seconds, 2),
        "calls": {name: spread(lengths) for name, lengths in calls.items()},
        "free_to_working": spread(waits),
        "enqueued_to_working": spread(taken),
    }


def _within(timed: Any, since: float, until: float) -> list[float]:
    return [length for at, length in timed if since <= at <= until]


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """How many, and milliseconds: median, 99th percentile where there are enough, and the longest."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    middle, longest = ordered[len(ordered) // 2], ordered[-1]
    found = {"count": len(seconds), "p50": _ms(middle), "max": _ms(longest)}
    return found | ({"p99": _ms(percentile(seconds, 99))} if len(seconds) >= FEW else {})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
