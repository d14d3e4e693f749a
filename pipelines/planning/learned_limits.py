"""How much memory each GPU really has: a plan that ran out of memory is not tried again after a restart."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.json_cache import JsonCache

FORGOTTEN_AFTER_SECONDS = 7 * 24 * 3600
"""Another process on the GPU or a driver's fault may have been the cause: after a week the GPU is tried again."""


@dataclass(frozen=True, slots=True)
class _Limit:
    bytes: int
    learned_at: float

    @property
    def is_recent(self) -> bool:
        return 0 <= time.time() - self.learned_at < FORGOTTEN_AFTER_SECONDS


class LearnedLimits:
    """Bytes that may be planned with on each GPU, by its name, in a small file."""

    def __init__(self, path: Path) -> None:
        self._cache = JsonCache(path, _Limit)

    def get(self, gpu: str) -> int | None:
        """The most bytes to plan with; None if nothing was learned within FORGOTTEN_AFTER_SECONDS."""
        limit = self._cache.get(gpu)
        return limit.bytes if limit is not None and limit.is_recent else None

    def learn(self, gpu: str, size: int) -> None:
        """Let no plan use more than `size` bytes of a GPU. A lower limit that is known stays, with a new date."""

        def lower(known: _Limit | None) -> _Limit:
            most = known.bytes if known is not None and known.is_recent else size
            return _Limit(min(most, size), time.time())

        self._cache.update(gpu, lower)
