"""The base of videos, checkpoints and previews: files that belong to generations."""

from collections.abc import AsyncIterator, Collection, Iterable

from server.storage.files.interface import FileStorage, StoredFile

_PAGE = 500
_OF_ONE = 50
"""A generation has few files of a kind."""


def generation_of(key: str) -> str:
    """The id of the generation that a file belongs to: the part of its storage key before the first dot."""
    return key.partition(".")[0]


def attempt_of(key: str) -> int:
    """The number of the attempt that a file belongs to; 0 if its key has none, as checkpoints of v0.2.0 do."""
    number = key.split(".")[1]
    return int(number) if number.isdecimal() else 0


class GenerationFiles:
    """The files of one kind. The key of each begins with its generation's id and a dot."""

    def __init__(self, storage: FileStorage) -> None:
        self.storage = storage

    async def read(self, key: str) -> bytes:
        """A whole file; raises FileNotFoundError."""
        return b"".join([chunk async for chunk in self.storage.open(key)])

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and half-written versions of them."""
        await self.storage.delete(keys)

    async def keys_of(self, generation_id: str) -> list[str]:
        """The keys of a generation's files, in their order."""
        first = f"{generation_id}."
        found, page = list[str](), await self.storage.list(after=first, limit=_OF_ONE)
        while page:
            own = [file.key for file in page if file.key.startswith(first)]
            found += own
            page = await self.storage.list(after=own[-1], limit=_OF_ONE) if len(own) == _OF_ONE else []
        return found

    async def pages(self) -> AsyncIterator[list[StoredFile]]:
        """All files in the order of their keys, some at a time."""
        page = await self.storage.list(limit=_PAGE)
        while page:
            yield page
            page = await self.storage.list(after=page[-1].key, limit=_PAGE)

    async def sweep(self, untouched_for: float = 0, held: Collection[str] = ()) -> None:
        """Remove half-written files that a killed worker left: those not written to for some seconds.

        Files of the generations `held`, by their ids, are not removed.
        """
        await self.storage.sweep(untouched_for, lambda key: generation_of(key) in held)
