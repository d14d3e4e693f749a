"""What a card turned out to give: a plan that ran out of memory there is not tried again after the next start."""

import json
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from pipelines.core.files import write_whole

FORGOTTEN_AFTER_SECONDS = 7 * 24 * 3600
"""What else was on the card, or a driver's fault, passes: after a week the card is tried anew."""


class LearnedLimits:
    """Bytes that may be planned with on each card, by its name, in a small file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, card: str) -> int | None:
        """The bytes to plan with at most, if that was learned of late."""
        limit = self._read().get(card)
        if limit is None or not 0 <= time.time() - limit["learned_at"] < FORGOTTEN_AFTER_SECONDS:
            return None
        return int(limit["bytes"])

    def learn(self, card: str, size: int) -> None:
        """Note that no plan may count on more than `size` bytes of a card; a lower limit known already stays.

        Where it cannot be written it is forgotten.
        """
        # a disk that is full or cannot be written costs finding it out again, no more
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock"):
                known = self.get(card)
                limit = {"bytes": size if known is None else min(known, size), "learned_at": time.time()}
                write_whole(self._path, json.dumps({**self._read(), card: limit}, indent=1))

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            limits = json.loads(self._path.read_text())
            return {
                card: {"bytes": limit["bytes"], "learned_at": limit["learned_at"]} for card, limit in limits.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # it is only a memory: without it the ladder finds out again
            return {}
