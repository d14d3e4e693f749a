"""The seam for where files are kept: a folder of the data directory, or an object store."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

CHUNK_BYTES = 2**16
"""How much of a file is in memory at once while it is read."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a storage: its storage key, its size in bytes, and the time it was written, in Unix seconds."""

    key: str
    size: int
    modified: float


def is_key(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name is a key of a storage whose files have these suffixes."""
    return name.endswith(suffixes) and not name.startswith(".") and "/" not in name and name.isprintable()


def check_key(name: str, suffixes: tuple[str, ...]) -> None:
    """Raise ValueError for a name that is no key of a storage whose files have these suffixes."""
    if not is_key(name, suffixes):
        raise ValueError(f"not a storage key: {name!r}")


class FileStorage(Protocol):
    """Files of one kind by storage key. A file is complete or absent at any moment.

    A key is one printable name without a slash that does not begin with a dot. Methods raise ValueError for any other,
    and OSError if the storage fails.
    """

    async def put(self, key: str, content: AsyncIterable[bytes]) -> None:
        """Write a file, in place of the one that had the key. Writers of one key must exclude each other."""

    async def touch(self, key: str) -> bool:
        """Let a file count as written now; False if there is none."""

    async def stat(self, keys: Iterable[str]) -> dict[str, StoredFile]:
        """Those of the files that exist, by key."""

    def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (None: the last), in chunks; raises FileNotFoundError at the first."""

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and half-written versions of them; one that does not exist is no error."""

    async def list(self, after: str = "", limit: int = 1000) -> list[StoredFile]:
        """The files whose keys come after a key, in the order of their keys, at most `limit`."""

    async def total_size(self) -> int:
        """The bytes of all files together. An object store is asked once for each 1,000 files."""

    async def sweep(self, untouched_for: float, spare: Callable[[str], bool]) -> None:
        """Remove half-written files that were not written to for some seconds, except those of the spared keys."""

    async def direct_url(self, key: str, seconds: float) -> str | None:
        """A URL from which anybody can fetch the file for some seconds; None where only the server can read it."""
