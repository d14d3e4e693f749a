"""What every benchmark prints: a table for people, then one JSON line for programs, with the machine it ran on."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from server import __version__

_RESAMPLES = 2000
_SEED = 0


class Records:
    """Lines of one JSON object each, found again by their key; of several with one key the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self._known = {record["key"]: record for record in map(json.loads, lines)}

    def find(self, key: str) -> dict[str, Any] | None:
        """The record under `key`, if there is one."""
        return self._known.get(key)

    def put(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write a record now, under `key`; returns it with its key."""
        record = {"key": key, **record}
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._known[key] = record
        return record

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record under `key`; made and written now if it is not there yet."""
        return self.find(key) or self.put(key, make())


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which `percent` per cent of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def bootstrap(
    values: Sequence[float], of: Callable[[Sequence[float]], float] = statistics.median
) -> tuple[float, float]:
    """The 95 % interval of a statistic, by resampling the values with replacement, with a fixed seed."""
    dice = random.Random(_SEED)
    resampled = sorted(of(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return resampled[round(_RESAMPLES * 0.025)], resampled[round(_RESAMPLES * 0.975) - 1]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "paddock": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "cores": os.cpu_count(),
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in facts if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def show(
    title: str,
    rows: Sequence[Sequence[str]],
    figures: dict[str, Any],
    columns: Sequence[str] = ("what", "figure", "note"),
    width: int = 120,
) -> None:
    """Print rows as a table `width` characters wide, then the figures and the machine as one JSON line."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)
    print(json.dumps({"benchmark": title, **figures, "machine": machine()}), flush=True)
