"""Files in an object store."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING
from uuid import uuid4

from server.storage.files.interface import CHUNK_BYTES, StoredFile, check_key, is_key
from server.storage.files.object_store.bucket import Bucket

if TYPE_CHECKING:
    from obstore import GetOptions, ListStream, ObjectMeta

PART_BYTES = 5 * 2**20
"""A larger file is uploaded in parts of this size, the least that S3 takes."""

_PARTS_AT_ONCE = 3
_BLOCK_BYTES = 2**20
_CALLS_AT_ONCE = 16
_FRESH_SECONDS = 60.0
_ABANDONED_SECONDS = 3600.0
_MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".flac": "audio/flac",
}


class ObjectStorage:
    """A `FileStorage` in a bucket, under one `folder` of it. All its keys have one of the suffixes.

    What fails is an ObjectStoreError, which is an OSError. No call waits for long, whatever the store does.
    """

    def __init__(self, bucket: Bucket, folder: str, *suffixes: str) -> None:
        self.bucket = bucket
        self.folder = folder
        self.suffixes = suffixes

    async def put(self, key: str, content: AsyncIterable[bytes]) -> None:
        """Write a file, in place of the one that had the key; readers see the old or the new one, whole.

        Few parts are in memory at once. A killed upload of several parts stays in the bucket, unseen, until the
        bucket's own rule for incomplete uploads removes it.
        """
        import obstore

        path, attributes = self._path(key), {"Content-Type": _MEDIA_TYPES.get(PurePath(key).suffix, "")}
        attributes = {name: value for name, value in attributes.items() if value}
        chunks = aiter(content)
        first, is_whole = await _first_part(chunks)
        async with self.bucket.call() as limit:
            if is_whole:
                await obstore.put_async(self.bucket.client, path, first, attributes=attributes, use_multipart=False)
                return

            async def parts() -> AsyncIterator[bytes]:
                yield first
                async for chunk in chunks:
                    # as long as it takes more, it answers
                    limit.reschedule(asyncio.get_running_loop().time() + self.bucket.patience)
                    yield chunk

            await obstore.put_async(
                *(self.bucket.client, path, parts()),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def touch(self, key: str) -> bool:
        """Let a file count as written now, to the minute; False if there is none.

        No store can set the time of a file, and S3 copies none onto itself: it is copied away and back, in the store.
        """
        import obstore

        path, aside = self._path(key), f"{self._aside}/{uuid4().hex}"
        client = self.bucket.client
        async with self.bucket.call():
            try:
                found = await obstore.head_async(client, path)
                if time.time() - found["last_modified"].timestamp() < _FRESH_SECONDS:
                    return True
                await obstore.copy_async(client, path, aside)
            except FileNotFoundError:
                return False
            await obstore.copy_async(client, aside, path)
            await obstore.delete_async(client, aside)
        return True

    async def stat(self, keys: Iterable[str]) -> dict[str, StoredFile]:
        """Those of the files that exist, by key."""
        import obstore

        paths = {key: self._path(key) for key in keys}
        left, found = iter(paths), dict[str, StoredFile]()

        async def take() -> None:
            for key in left:
                async with self.bucket.call():
                    with suppress(FileNotFoundError):
                        found[key] = _stored(key, await obstore.head_async(self.bucket.client, paths[key]))

        taking = [asyncio.ensure_future(take()) for _ in range(min(_CALLS_AT_ONCE, len(paths)))]
        try:
            await asyncio.gather(*taking)
        finally:
            for each in taking:
                each.cancel()
        return found

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (None: the last), in chunks; raises FileNotFoundError at the first.

        Each block is a request of its own, so that a slow reader holds no connection. Raises ObjectStoreError if the
        file is replaced meanwhile.
        """
        import obstore

        path, client = self._path(key), self.bucket.client
        async with self.bucket.call():
            found = await obstore.head_async(client, path)
        stop = found["size"] if end is None else min(end, found["size"])
        for first in range(start, stop, _BLOCK_BYTES):
            options: GetOptions = {"range": (first, min(stop, first + _BLOCK_BYTES)), "if_match": found["e_tag"]}
            async with self.bucket.call():
                block = bytes(await (await obstore.get_async(client, path, options=options)).bytes_async())
            for offset in range(0, len(block), CHUNK_BYTES):
                yield block[offset : offset + CHUNK_BYTES]

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove files; one that does not exist is no error."""
        import obstore

        paths = [self._path(key) for key in keys]
        if not paths:
            return
        async with self.bucket.call():
            try:
                await obstore.delete_async(self.bucket.client, paths)
            except FileNotFoundError:
                # some stores end at the first that is missing
                for path in paths:
                    with suppress(FileNotFoundError):
                        await obstore.delete_async(self.bucket.client, path)

    async def list(self, after: str = "", limit: int = 1000) -> list[StoredFile]:
        """The files whose keys come after a key, in the order of their keys, at most `limit`."""
        found: list[StoredFile] = []
        async with self.bucket.call():
            async for page in self._pages(self.folder, after, limit):
                found.extend(self._files(page))
                if len(found) >= limit:
                    break
        return found[:limit]

    async def total_size(self) -> int:
        """The bytes of all files together, by one request for each 1,000 files."""
        size = 0
        async with self.bucket.call() as limit:
            async for page in self._pages(self.folder):
                limit.reschedule(asyncio.get_running_loop().time() + self.bucket.patience)
                size += sum(file.size for file in self._files(page))
        return size

    async def sweep(self, untouched_for: float, spare: Callable[[str], bool]) -> None:
        """Remove what killed servers left when they touched files. Half-written files are never seen."""
        import obstore

        oldest = time.time() - max(untouched_for, _ABANDONED_SECONDS)
        async with self.bucket.call():
            async for page in self._pages(self._aside):
                old = [each["path"] for each in page if each["last_modified"].timestamp() < oldest]
                if old:
                    await obstore.delete_async(self.bucket.client, old)

    async def direct_url(self, key: str, seconds: float) -> str | None:
        """A URL from which anybody can fetch the file for some seconds, without this server."""
        import obstore

        path = self._path(key)
        async with self.bucket.call():
            return await obstore.sign_async(self.bucket.client, "GET", path, timedelta(seconds=seconds))

    @property
    def _aside(self) -> str:
        return f"touched/{self.folder}"

    def _path(self, key: str) -> str:
        check_key(key, self.suffixes)
        return f"{self.folder}/{key}"

    def _pages(self, folder: str, after: str = "", size: int = 1000) -> "ListStream[Sequence[ObjectMeta]]":
        import obstore

        offset = f"{folder}/{after}" if after else None
        return obstore.list(self.bucket.client, folder, offset=offset, chunk_size=size)

    def _files(self, page: "Iterable[ObjectMeta]") -> Iterator[StoredFile]:
        named = ((each["path"].removeprefix(f"{self.folder}/"), each) for each in page)
        return (_stored(key, each) for key, each in named if is_key(key, self.suffixes))


def _stored(key: str, found: "ObjectMeta") -> StoredFile:
    return StoredFile(key, found["size"], found["last_modified"].timestamp())


async def _first_part(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The first part of some content, and whether it is all of it."""
    first = bytearray()
    async for chunk in chunks:
        first += chunk
        if len(first) >= PART_BYTES:
            return bytes(first), False
    return bytes(first), True
