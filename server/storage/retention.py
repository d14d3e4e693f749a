"""Retention: rows and videos are kept for a time, and videos within a total size. Their owner may remove them earlier.

Stills are kept as long as their videos, and their bytes count.

Records are changed first and files removed after. If the server crashes in between, a file is left that no row names;
such files are found and removed too. A generation that waits or runs is never touched, nor one that ended within the
grace time. Favourites do not go by their age, and by the total size only when nothing else is left to go.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping

from server.core.errors import UnavailableError, reason
from server.core.generation import Generation, Status
from server.storage.db.sharing.locks import Lock, Locks
from server.storage.db.statements.expiry import Expiry
from server.storage.files.generation_files import generation_of
from server.storage.files.inputs import UNUSED_SECONDS, Inputs, input_keys, named_by
from server.storage.files.stills import video_of
from server.storage.files.videos import Videos, video_key

log = logging.getLogger("paddock.retention")

BATCH = 500
"""How many rows or files one call handles at most."""

_DAY = 24 * 3600

Clock = Callable[[], float]


class Retention:
    """Keeps rows and videos for `days`, and `max_bytes` of videos, stills and inputs; `grace` is in seconds.

    0 is no limit.

    To count their bytes, all files are listed, at most every `count_every` seconds.
    """

    def __init__(
        self,
        expiry: Expiry,
        videos: Videos,
        inputs: Inputs,
        locks: Locks,
        *,
        days: float,
        max_bytes: int,
        grace: float,
        count_every: float = 0,
        clock: Clock = time.time,
    ) -> None:
        self._expiry = expiry
        self._videos = videos
        self._inputs = inputs
        self._locks = locks
        self._days = days
        self._max_bytes = max_bytes
        self._grace = grace
        self._clock = clock
        self._count_every = count_every
        self._counted_at: float | None = None
        self._swept_to = self._stills_swept_to = self._inputs_swept_to = ""

    async def tidy(self) -> bool:
        """Remove a batch of what is no longer kept; returns whether there is more to remove now.

        Nothing is removed while another server does so: two that count the same excess would remove twice as much.
        Raises RecordsUnavailableError, and OSError when files cannot be removed; the next call continues.
        """
        async with self._locks.tried(Lock.TIDYING) as is_ours:
            if not is_ours:
                return False
            await self._sweep()
            await self._sweep_stills()
            await self._sweep_inputs()
            return any([await self._forget_old(), await self._make_room()])

    async def remove(self, ids: Collection[str], tenant: str) -> tuple[list[str], dict[str, Status]]:
        """Remove the rows and the videos of those generations that are over.

        Returns their ids, and the status of each of the others by its id, but for unknown ones. Raises
        UnavailableError, and changes nothing, while the videos cannot be reached.
        """
        try:
            # of any file: it is asked only whether it answers
            await self._videos.storage.stat([video_key("any", 1)])
        except OSError as error:
            raise UnavailableError(f"The video cannot be removed now: {reason(error)}.", 5) from error
        removed, others = await self._expiry.remove(ids, tenant)
        videos = [each.artifact for each in removed if each.artifact]
        try:
            await self._videos.delete(videos)
        except OSError as error:
            log.warning("%s: not removed, but its row: %s", ", ".join(videos), reason(error))
            raise UnavailableError(f"The generation was removed, but not its video: {reason(error)}.") from error
        return [each.id for each in removed], others

    async def _forget_old(self) -> bool:
        """Remove the oldest rows, with their videos, but no favourites."""
        if not self._days:
            return False
        before = self._clock() - max(self._days * _DAY, self._grace)
        forgotten = await self._expiry.forget(before, BATCH)
        if forgotten:
            log.info("%d generations that ended more than %g days ago were removed", len(forgotten), self._days)
        await self._videos.delete(generation.artifact for generation in forgotten if generation.artifact)
        return len(forgotten) == BATCH

    async def _make_room(self) -> bool:
        """Remove the oldest videos and inputs until the rest is within the limit; their rows stay and give the reason.

        Those of favourites go last.
        An input that other rows name, too, stays: the next round removes more instead.
        """
        now = self._clock()
        # a clock may be set back
        is_counted = self._counted_at is not None and 0 <= now - self._counted_at < self._count_every
        if not self._max_bytes or is_counted:
            return False
        inputs, stills = await self._old_inputs(), self._videos.stills
        kept = [await storage.total_size() for storage in (self._videos.storage, stills.storage)]
        excess = sum(kept) + sum(inputs.values()) - self._max_bytes
        if excess <= 0:
            self._counted_at = now
            return False
        oldest = await self._expiry.oldest_with_files(self._clock() - self._grace, BATCH)
        artifacts = [generation.artifact for generation in oldest if generation.artifact]
        videos, drawn = await self._videos.storage.stat(artifacts), await stills.sizes_of(artifacts)
        leaving, named = [], dict[str, tuple[str, str]]()
        for generation in oldest:
            own = _inputs_of(generation)
            # the videos of another server on the same records are not here
            if excess > 0 and (generation.artifact in videos or not own.keys().isdisjoint(inputs)):
                leaving.append(generation)
                excess -= videos[generation.artifact].size if generation.artifact in videos else 0
                excess -= drawn.get(generation.artifact or "", 0)
                excess -= sum(inputs[key] for key in own.keys() & inputs.keys() - named.keys())
                named |= {key: each for key, each in own.items() if key in inputs}
        if not leaving:
            self._counted_at = now
            return False
        await self._expiry.withdraw(
            leaving, f"The video was removed to make room: this server keeps {self._max_bytes} bytes, the newest."
        )
        await self._videos.delete(generation.artifact for generation in leaving if generation.artifact)
        await self._delete_unused(named)
        log.info("the files of %d generations were removed to keep within %d bytes", len(leaving), self._max_bytes)
        return len(leaving) == BATCH

    async def _old_inputs(self) -> dict[str, int]:
        """The sizes of the inputs by key, without those that may be about to be named by a row."""
        sizes: dict[str, int] = {}
        page = await self._inputs.storage.list(limit=BATCH)
        while page:
            sizes |= {file.key: file.size for file in page if file.modified < self._clock() - UNUSED_SECONDS}
            page = await self._inputs.storage.list(after=page[-1].key, limit=BATCH)
        return sizes

    async def _sweep(self) -> None:
        """Remove files that no row names, among the next batch in the order of their keys."""
        files = await self._videos.storage.list(after=self._swept_to, limit=BATCH)
        self._swept_to = files[-1].key if len(files) == BATCH else ""
        batch = {file.key: generation_of(file.key) for file in files}
        leaving = await self._expiry.superseded(batch)
        if self._days:
            # only then rows are removed; without, a row that is missing was lost, and its video may be all that is left
            written = {file.key: file.modified for file in files}
            newest = self._clock() - self._grace
            leaving += [key for key in await self._expiry.unknown(batch) if written[key] < newest]
        for key in leaving:
            log.info("removing %s: no generation names it", key)
        await self._videos.delete(leaving)

    async def _sweep_stills(self) -> None:
        """Remove stills of videos that no row names, among the next batch in the order of their keys."""
        stills = self._videos.stills
        files = await stills.storage.list(after=self._stills_swept_to, limit=BATCH)
        self._stills_swept_to = files[-1].key if len(files) == BATCH else ""
        # a video is recorded a moment after its stills are written
        newest = self._clock() - self._grace
        videos = {video_of(file.key) for file in files if file.modified < newest}
        batch = {video: generation_of(video) for video in videos}
        if not batch:
            return
        # unlike a video, they are worth nothing without their row
        leaving = {*await self._expiry.superseded(batch), *await self._expiry.unknown(batch)}
        await stills.delete_of(leaving)

    async def _sweep_inputs(self) -> None:
        """Remove inputs that no row names, among the next batch in the order of their keys."""
        files = await self._inputs.storage.list(after=self._inputs_swept_to, limit=BATCH)
        self._inputs_swept_to = files[-1].key if len(files) == BATCH else ""
        newest = self._clock() - UNUSED_SECONDS
        await self._delete_unused(
            {file.key: named for file in files if file.modified < newest and (named := named_by(file.key))}
        )
        async with self._inputs.removing() as may_remove:
            if may_remove:
                await self._inputs.storage.sweep(UNUSED_SECONDS, lambda key: False)

    async def _delete_unused(self, inputs: Mapping[str, tuple[str, str]]) -> None:
        """Remove those of some inputs, by key, that no row names; later if another server writes inputs now."""
        newest = self._clock() - UNUSED_SECONDS
        unused = await self._expiry.unused_inputs([*inputs.values()]) if inputs else set()
        async with self._inputs.removing() as may_remove:
            if not may_remove:
                return
            # another request may have brought one again meanwhile
            found = await self._inputs.storage.stat([key for key, each in inputs.items() if each in unused])
            await self._inputs.storage.delete([key for key, file in found.items() if file.modified < newest])


def _inputs_of(generation: Generation) -> dict[str, tuple[str, str]]:
    """The inputs that a generation names by their storage keys, each by its tenant and its digest."""
    keys = input_keys(generation.tenant, generation.params).values()
    return {key: named for key in keys if (named := named_by(key)) is not None}
