"""The progress of a load, in bytes."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipelines.core.progress import LoadCallback
from pipelines.loading.modules import WeightSource
from pipelines.models.family import ModelFamily, Part

REPORT_SECONDS = 0.25


def iter_parts(
    family: ModelFamily, folder: Path, sources: Mapping[str, Path], on_progress: LoadCallback
) -> Iterator[tuple[Part, Callable[[float], None]]]:
    """Yield each part in its order of loading, with a function that reports the loaded share (0 … 1) of it."""
    parts = family.used(family.read_index(folder))
    sizes = [WeightSource(sources.get(part.name, folder / part.name), part).nbytes for part in parts]
    total, before, reported = sum(sizes), 0, 0.0
    for part, size in zip(parts, sizes, strict=True):

        def report(share: float, part: Part = part, before: int = before, size: int = size) -> None:
            # converted weights are read twice
            nonlocal reported
            reported = max(reported, (before + share * size) / total)
            on_progress(part.name, reported)

        report(0.0)
        yield part, report
        before += size


def byte_counter(size: int, report: Callable[[float], None]) -> Callable[[int], None]:
    """Return a function that counts the bytes read of a part's `size`, and reports their share often."""
    total, done, reported_at = max(1, size), 0, 0.0

    def count(more: int) -> None:
        nonlocal done, reported_at
        done += more
        if time.monotonic() - reported_at > REPORT_SECONDS:
            reported_at = time.monotonic()
            report(min(1.0, done / total))

    return count
