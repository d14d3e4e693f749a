"""How much of a load is done, counted in bytes."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipelines.core.progress import LoadCallback
from pipelines.hub import local as weights
from pipelines.loading.modules import MODEL_CLASSES

REPORT_SECONDS = 0.25


def iter_parts(
    folder: Path, sources: Mapping[str, Path], on_progress: LoadCallback
) -> Iterator[tuple[str, Callable[[float], None]]]:
    """Each part in the order they are loaded, with what to tell how much of it (0 … 1) is done."""
    sizes = {
        part: weights.source_bytes(sources.get(part, folder / part))
        for part in MODEL_CLASSES
        if (folder / part).is_dir()
    }
    total, before, furthest = sum(sizes.values()), 0, 0.0
    for part, size in sizes.items():

        def report(share: float, part: str = part, before: int = before, size: int = size) -> None:
            # weights that are stored anew are gone through twice
            nonlocal furthest
            furthest = max(furthest, (before + share * size) / total)
            on_progress(part, furthest)

        report(0.0)
        yield part, report
        before += size


def byte_counter(source: Path, report: Callable[[float], None]) -> Callable[[int], None]:
    """Takes bytes as they are read, and reports their share of all in a part's files, a few times a second."""
    total, done, told = max(1, weights.source_bytes(source)), 0, 0.0

    def count(size: int) -> None:
        nonlocal done, told
        done += size
        if time.monotonic() - told > REPORT_SECONDS:
            told = time.monotonic()
            report(min(1.0, done / total))

    return count
