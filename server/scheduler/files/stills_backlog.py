"""Makes the stills that videos lack: those of earlier versions, or whose server died before they were drawn."""

import asyncio
import logging
from collections.abc import Callable, Collection

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError, UnavailableError
from server.scheduler.files.stills import StillsMaker
from server.storage.db.sharing.locks import Lock
from server.storage.db.statements.stills import Undrawn
from server.storage.db.store import Store
from server.storage.files.videos import Videos

log = logging.getLogger("paddock.stills")

FIRST_SECONDS = 5.0
"""After the start other work goes first."""

ROUND_SECONDS = 30.0
PAUSE_SECONDS = 1.0
BATCH = 10


class StillsBacklog:
    """Goes through the videos without stills, newest first and a few at a time. Only one server does so at a time.

    Nothing is drawn while `is_busy`: what the devices make goes first.
    """

    def __init__(self, store: Store, videos: Videos, maker: StillsMaker, is_busy: Callable[[], bool]) -> None:
        self._store = store
        self._videos = videos
        self._maker = maker
        self._is_busy = is_busy
        self._before: int | None = None

    async def run(self) -> None:
        """Work until this is cancelled."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            made = False
            try:
                made = await self.round()
            except (RecordsUnavailableError, UnavailableError, SQLAlchemyError, OSError) as error:
                log.warning("missing stills were not made; trying again in %g s: %s", ROUND_SECONDS, error)
            except Exception:
                log.exception("missing stills were not made; trying again in %g s", ROUND_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS if made else ROUND_SECONDS)

    async def round(self) -> bool:
        """Make the stills of the next few videos; returns whether some were made, so that there may be more to do.

        Raises RecordsUnavailableError, UnavailableError or OSError; the next round goes on.
        """
        if self._is_busy():
            return False
        async with self._store.locks.tried(Lock.STILLS) as is_ours:
            if not is_ours:
                return False
            found = await self._store.stills.undrawn(self._before, BATCH)
            # after the last one it begins again, as newer ones may have come
            self._before = found[-1].seq if len(found) == BATCH else None
            here = await self._videos.storage.stat([video.artifact for video in found])
            return any([await self._settle(video, here) for video in found])

    async def _settle(self, video: Undrawn, here: Collection[str]) -> bool:
        if self._is_busy():
            return False
        if video.artifact not in here:
            # another server on the same records may keep it in a folder of its own
            if not self._store.is_shared:
                await self._store.stills.note(video, has_stills=False)
            return False
        try:
            has_stills = await self._maker.make(video.artifact)
        except FileNotFoundError:
            # it was removed meanwhile
            return False
        if not await self._store.stills.note(video, has_stills=has_stills):
            await self._videos.stills.delete_of([video.artifact])
        return has_stills
