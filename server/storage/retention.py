"""What is kept of the past: rows and videos until they are too old, videos until they are too much together.

Their owner may remove them before.

Records change first and files go after: what a crash leaves between the two is a file that no row names, and those are
looked for. A generation that waits or runs is never touched, nor one that ended within the grace time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from server.storage.db.statements.expiry import Expiry
from server.storage.files.videos import Artifacts

log = logging.getLogger("paddock.retention")

BATCH = 500
"""Rows or files that one call looks at, at most."""

_DAY = 24 * 3600

Clock = Callable[[], float]


class Retention:
    """The rules: `days` rows and videos are kept, and `max_bytes` of videos (0: no limit); `grace` is in seconds."""

    def __init__(
        self,
        expiry: Expiry,
        artifacts: Artifacts,
        *,
        days: float,
        max_bytes: int,
        grace: float,
        clock: Clock = time.time,
    ) -> None:
        self._expiry = expiry
        self._artifacts = artifacts
        self._days = days
        self._max_bytes = max_bytes
        self._grace = grace
        self._clock = clock
        self._swept_to = ""

    async def tidy(self) -> bool:
        """Remove a batch of what is to be kept no longer; returns whether there is more to remove now.

        Raises RecordsUnavailableError, and OSError when files cannot be removed; the next call goes on.
        """
        await self._sweep()
        return any([await self._forget_old(), await self._make_room()])

    async def remove(self, generation_id: str, tenant: str) -> bool:
        """Remove the row and the video of a generation that is over; False if there is none such."""
        removed = await self._expiry.remove(generation_id, tenant)
        if removed is None:
            return False
        await self._discard([removed.artifact] if removed.artifact else [])
        return True

    async def _forget_old(self) -> bool:
        """Remove rows that are too old, with their videos."""
        if not self._days:
            return False
        before = self._clock() - max(self._days * _DAY, self._grace)
        forgotten = await self._expiry.forget(before, BATCH)
        if forgotten:
            log.info("%d generations that ended more than %g days ago were removed", len(forgotten), self._days)
        await self._discard([generation.artifact for generation in forgotten if generation.artifact])
        return len(forgotten) == BATCH

    async def _make_room(self) -> bool:
        """Remove the oldest videos until the rest is within the limit; their rows stay, and say why."""
        if not self._max_bytes:
            return False
        sizes = await asyncio.to_thread(self._artifacts.sizes)
        excess = sum(sizes.values()) - self._max_bytes
        if excess <= 0:
            return False
        leaving = []
        for generation in await self._expiry.oldest_videos(self._clock() - self._grace, BATCH):
            # the videos of another server on the same records are not here
            if excess > 0 and generation.artifact in sizes:
                leaving.append(generation)
                excess -= sizes[generation.artifact]
        if not leaving:
            return False
        await self._expiry.withdraw(
            leaving, f"The video was removed to make room: this server keeps {self._max_bytes} bytes, the newest."
        )
        await self._discard([generation.artifact for generation in leaving if generation.artifact])
        log.info("%d videos were removed to keep within %d bytes", len(leaving), self._max_bytes)
        return len(leaving) == BATCH

    async def _sweep(self) -> None:
        """Remove files that no row names, among the next batch in the order of their names."""
        kept = await asyncio.to_thread(self._artifacts.kept)
        names = sorted(name for name in kept if name > self._swept_to)[:BATCH]
        self._swept_to = names[-1] if len(names) == BATCH else ""
        batch = {name: kept[name] for name in names}
        leaving = await self._expiry.superseded(batch)
        if self._days:
            # only then do rows go: without, a row that is not there was lost, and its video may be all that is left
            oldest = self._clock() - self._grace
            leaving += [key for key in await self._expiry.unknown(batch) if self._artifacts.written(key) < oldest]
        for key in leaving:
            log.info("removing %s: no generation names it", key)
        await self._discard(leaving)

    async def _discard(self, keys: Sequence[str]) -> None:
        def remove() -> None:
            for key in keys:
                self._artifacts.discard(key)

        await asyncio.to_thread(remove)
