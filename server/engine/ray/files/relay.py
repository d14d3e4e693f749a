"""Brings the files of runs to a worker's host, and fetches what the worker wrote there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from server.engine.protocol import Attempt, Run
from server.engine.ray.files.folders import Folder, WorkerFolders, read_by, written_by


class HostFiles(Protocol):
    """The files on a worker's host."""

    def read(self, folder: Folder, key: str) -> AsyncIterator[bytes]:
        """A file in chunks; nothing if there is none."""

    async def append(self, folder: Folder, key: str, chunk: bytes, is_first: bool) -> None:
        """Add a chunk to an unfinished file."""

    async def complete(self, folder: Folder, key: str) -> None:
        """Let an unfinished file have its key."""

    async def remove(self, folder: Folder, key: str) -> None:
        """Remove a file, finished or not."""


class FileRelay:
    """Moves files between the server's folders, `here`, and those of a host, `there`.

    `on_chunk` is called after each chunk that was fetched.
    """

    def __init__(self, here: WorkerFolders, there: HostFiles, on_chunk: Callable[[], Awaitable[None]]) -> None:
        self._here = here
        self._there = there
        self._on_chunk = on_chunk
        self._runs: dict[Attempt, Run] = {}
        # a file that was just brought for one run must not go with another one
        self._changing = asyncio.Lock()

    def run_of(self, about: Attempt | None) -> Run | None:
        """The order for a run that is not over."""
        return None if about is None else self._runs.get(about)

    async def bring(self, run: Run) -> None:
        """Bring the files that a run needs. One that the server does not have is the worker's to complain about."""
        async with self._changing:
            self._runs[run.about] = run
            for folder, key in read_by(run):
                with suppress(FileNotFoundError):
                    is_first = True
                    async for chunk in self._here.read(folder, key):
                        await self._there.append(folder, key, chunk, is_first)
                        is_first = False
                    if not is_first:
                        await self._there.complete(folder, key)

    async def fetch(self, folder: Folder, key: str) -> None:
        """Store a file of the host; raises OSError if the server cannot store it, and then leaves nothing of it."""
        is_first = True
        try:
            async for chunk in self._there.read(folder, key):
                await self._here.append(folder, key, chunk, is_first=is_first)
                is_first = False
                await self._on_chunk()
            if is_first:
                raise FileNotFoundError(None, "the host does not have it any more")
            await self._here.complete(folder, key)
        except OSError:
            await self._here.remove_unfinished(folder, key)
            raise

    async def end(self, run: Run) -> None:
        """Remove the host's files of a run that is over, except those that another one needs."""
        async with self._changing:
            self._runs.pop(run.about, None)
            needed = {each for other in self._runs.values() for each in (*read_by(other), *written_by(other))}
            for folder, key in {*read_by(run), *written_by(run)} - needed:
                await self._there.remove(folder, key)
