"""The folders that workers on this machine write to and read from, where the files are kept in an object store.

A worker knows folders only. What it needs is copied there from the store before a run, and what it writes is copied
into the store before anybody is told of it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from server.core.generation import Generation
from server.storage.files.folder import FolderStorage
from server.storage.files.generation_files import attempt_of, generation_of
from server.storage.files.interface import FileStorage
from server.storage.files.videos import video_key

log = logging.getLogger("paddock.files")

UNUSED_SECONDS = 3600.0
"""A local copy that no run needs is kept for so long."""

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Copies:
    """The files of one kind: the folder that workers use, and the storage that keeps them."""

    local: FolderStorage
    stored: FileStorage

    async def bring(self, key: str) -> None:
        """Copy a file to the folder; raises FileNotFoundError if there is none, and OSError."""
        async with aclosing(self.stored.open(key)) as content:
            await self.local.put(key, content)

    async def send(self, key: str) -> None:
        """Copy a file from the folder; raises FileNotFoundError if there is none, and OSError."""
        async with aclosing(self.local.open(key)) as content:
            await self.stored.put(key, content)


class Scratch:
    """The local copies of all kinds, for all devices of this server."""

    def __init__(self, videos: Copies, checkpoints: Copies, previews: Copies, inputs: Copies) -> None:
        self.videos = videos
        self.checkpoints = checkpoints
        self.previews = previews
        self.inputs = inputs
        self._in_use: Counter[str] = Counter()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def using_inputs(self, keys: Collection[str]) -> AsyncIterator[None]:
        """Keep these inputs in the folder while this lasts; raises FileNotFoundError if one is gone, and OSError."""
        self._in_use.update(keys)
        try:
            for key in keys:
                # of several runs that need it the first one copies it
                async with self._turns.setdefault(key, asyncio.Lock()):
                    if not await self.inputs.local.touch(key):
                        await self.inputs.bring(key)
            yield
        finally:
            self._in_use.subtract(keys)
            self._in_use += Counter()

    async def checkpoint_for(self, generation_id: str, attempt: int, stored: str | None) -> str | None:
        """Have the checkpoint in the folder that an attempt resumes from; returns its key, None if there is none.

        This is the one in the store, `stored`, or a newer one that could not be copied into it. Raises OSError.
        """
        first = f"{generation_id}."
        page = await self.checkpoints.local.list(after=first, limit=_PAGE)
        here = [file.key for file in page if file.key.startswith(first) and attempt_of(file.key) < attempt]
        newest = max(here, key=attempt_of, default=None)
        if newest is not None and (stored is None or attempt_of(newest) >= attempt_of(stored)):
            return newest
        if stored is not None:
            try:
                await self.checkpoints.bring(stored)
            except FileNotFoundError:
                log.warning("the checkpoint %s is gone; its generation starts over", stored)
                return None
        return stored

    async def rescue(self, held: Generation) -> str | None:
        """Store a finished video that is still here, as its server or its worker died; returns its key.

        Raises OSError.
        """
        keys = [video_key(held.id, attempt) for attempt in range(held.attempt, 0, -1)]
        found = await self.videos.local.stat(keys)
        key = next((key for key in keys if key in found), None)
        if key is not None:
            await self.videos.send(key)
            await self.videos.local.delete([key])
        return key

    async def forget(
        self, videos: Iterable[str] = (), checkpoints: Iterable[str] = (), previews: Iterable[str] = ()
    ) -> None:
        """Remove local copies that no run needs any more; those that cannot be removed now are swept later."""
        try:
            await self.videos.local.delete(videos)
            await self.checkpoints.local.delete(checkpoints)
            await self.previews.local.delete(previews)
        except OSError as error:
            log.warning("local copies of files were not removed: %s", error)

    async def sweep(self, held: Collection[str]) -> None:
        """Remove local copies that no run has needed for a while, except those of the generations `held`, by their ids.

        Raises OSError.
        """
        oldest = time.time() - UNUSED_SECONDS
        for copies in (self.videos, self.checkpoints, self.previews, self.inputs):
            is_input = copies is self.inputs
            page = await copies.local.list(limit=_PAGE)
            while page:
                unused = [
                    file.key
                    for file in page
                    if file.modified < oldest
                    and not (file.key in self._in_use if is_input else generation_of(file.key) in held)
                ]
                await copies.local.delete(unused)
                page = await copies.local.list(after=page[-1].key, limit=_PAGE)
            await copies.local.sweep(UNUSED_SECONDS, lambda key: generation_of(key) in held)
