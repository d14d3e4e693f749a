"""Why compiling failed last on each device. Workers record it for `paddock doctor`, which reads it without them."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.core.json_cache import JsonCache


@dataclass(frozen=True, slots=True)
class CompileFailure:
    """A failed compilation: its time in seconds since 1970, and a sentence for the user."""

    time: float
    message: str


def compile_failures(cache: Path) -> JsonCache[CompileFailure]:
    """Return the failures in a folder for caches, by torch device."""
    return JsonCache(cache / "compile_failures.json", CompileFailure)
