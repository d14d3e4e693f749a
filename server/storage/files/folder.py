"""Files in a folder, to which workers on the same machine write directly."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import suppress
from heapq import nsmallest
from pathlib import Path

from pipelines.core.files import durable_rename, opened, part_path
from server.storage.files.interface import CHUNK_BYTES, StoredFile, check_key, is_key

_PART_SUFFIX = ".part"


class FolderStorage:
    """A `FileStorage` in a folder, which is made. All its keys have one of the suffixes; other files are left alone.

    A half-written file has the name of `part_path`. Every access to the disk is made in a thread, as a disk may hang.
    """

    def __init__(self, folder: Path, *suffixes: str) -> None:
        self.folder = folder
        self.suffixes = suffixes
        folder.mkdir(parents=True, exist_ok=True)

    async def put(self, key: str, content: AsyncIterable[bytes]) -> None:
        """Write a file, in place of the one that had the key. Writers of one key must exclude each other."""
        path = self._path(key)
        part = part_path(path)
        try:
            async with opened(part, "wb") as file:
                async for chunk in content:
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(durable_rename, part, path)
        except BaseException:
            # its error would take the place of the first; a later sweep removes the file
            with suppress(OSError):
                await asyncio.to_thread(part.unlink, missing_ok=True)
            raise

    async def touch(self, key: str) -> bool:
        """Let a file count as written now; False if there is none."""
        try:
            await asyncio.to_thread(os.utime, self._path(key))
        except FileNotFoundError:
            return False
        return True

    async def stat(self, keys: Iterable[str]) -> dict[str, StoredFile]:
        """Those of the files that exist, by key."""
        return await asyncio.to_thread(lambda: {file.key: file for file in self._stat(keys)})

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (None: the last), in chunks; raises FileNotFoundError at the first."""
        async with opened(self._path(key), "rb") as file:
            await asyncio.to_thread(file.seek, start)
            left = None if end is None else end - start
            while left is None or left > 0:
                chunk = await asyncio.to_thread(file.read, CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
                if not chunk:
                    break
                left = None if left is None else left - len(chunk)
                yield chunk

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and half-written versions of them; one that does not exist is no error."""
        paths = [self._path(key) for key in keys]

        def remove() -> None:
            for path in paths:
                path.unlink(missing_ok=True)
                part_path(path).unlink(missing_ok=True)

        await asyncio.to_thread(remove)

    async def list(self, after: str = "", limit: int = 1000) -> list[StoredFile]:
        """The files whose keys come after a key, in the order of their keys, at most `limit`."""
        return await asyncio.to_thread(lambda: [*self._stat(nsmallest(limit, self._keys(after)))])

    async def total_size(self) -> int:
        """The bytes of all files together."""
        return await asyncio.to_thread(lambda: sum(file.size for file in self._stat(self._keys())))

    async def sweep(self, untouched_for: float, spare: Callable[[str], bool]) -> None:
        """Remove half-written files that were not written to for some seconds, except those of the spared keys."""

        def remove() -> None:
            for part in self.folder.glob(f".*{_PART_SUFFIX}"):
                # its worker may finish or remove it meanwhile
                with suppress(FileNotFoundError):
                    key = part.name[1:].removesuffix(_PART_SUFFIX)
                    if not self._is_key(key) or spare(key):
                        continue
                    # not only by the time: a clock may have been set back
                    if untouched_for == 0 or time.time() - part.stat().st_mtime >= untouched_for:
                        part.unlink()

        await asyncio.to_thread(remove)

    async def direct_url(self, key: str, seconds: float) -> str | None:
        """None: only this server can read the folder."""
        return None

    def _path(self, key: str) -> Path:
        check_key(key, self.suffixes)
        return self.folder / key

    def _is_key(self, name: str) -> bool:
        return is_key(name, self.suffixes)

    def _keys(self, after: str = "") -> Iterator[str]:
        with os.scandir(self.folder) as entries:
            yield from (entry.name for entry in entries if entry.name > after and self._is_key(entry.name))

    def _stat(self, keys: Iterable[str]) -> Iterator[StoredFile]:
        for key in keys:
            # another thread or a worker may remove it meanwhile
            with suppress(FileNotFoundError):
                found = self._path(key).stat()
                yield StoredFile(key, found.st_size, found.st_mtime)
