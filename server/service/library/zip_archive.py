"""Zip archives of stored files, written while they are read: neither a file nor the archive is ever in memory."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from io import RawIOBase
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from typing_extensions import Buffer

from server.storage.files.interface import FileStorage

LEFT_OUT = "left-out.txt"
"""The name of the text in an archive that says what is not in it."""

_FIRST = (1980, 1, 1, 0, 0, 0)
"""The earliest time that an archive can tell."""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A stored file by its name in an archive; `modified` is in Unix seconds, shown as UTC."""

    name: str
    key: str
    size: int
    modified: float


class _Sink(RawIOBase):
    """What is written of an archive until it is taken. It cannot seek: lengths follow what they are about."""

    def __init__(self) -> None:
        super().__init__()
        self._parts = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        self._parts += memoryview(data)
        return memoryview(data).nbytes

    def take(self) -> bytes:
        taken = bytes(self._parts)
        self._parts.clear()
        return taken


async def zipped(
    storage: FileStorage, files: Sequence[ArchivedFile], left_out: Sequence[str] = ()
) -> AsyncGenerator[bytes, None]:
    """The bytes of an archive of files, as they are (stored), and of a text with the lines `left_out` if there are any.

    A file that was removed meanwhile is left out, and told in that text. Raises OSError if the storage fails: the
    archive then has no end.
    """
    sink, lines = _Sink(), [*left_out]
    # of more than 2 GiB, a file or all before one have lengths in 64 bits
    with ZipFile(sink, "w") as archive:
        for file in files:
            async with aclosing(storage.open(file.key)) as chunks:
                try:
                    chunk = await anext(chunks, b"")
                except FileNotFoundError:
                    lines.append(f"{file.name}: removed before it was downloaded")
                    continue
                with archive.open(_entry(file.name, file.modified, file.size), "w") as entry:
                    while chunk:
                        entry.write(chunk)
                        yield sink.take()
                        chunk = await anext(chunks, b"")
            yield sink.take()
        if lines:
            text = "\n".join(["Not in this archive:", *lines, ""])
            archive.writestr(_entry(LEFT_OUT, time.time(), len(text)), text, ZIP_DEFLATED)
    yield sink.take()


def _entry(name: str, modified: float, size: int) -> ZipInfo:
    year, month, day, hour, minute, second, *_ = time.gmtime(modified)
    entry = ZipInfo(name, max((year, month, day, hour, minute, second), _FIRST))
    entry.external_attr = 0o644 << 16
    entry.file_size = size
    return entry
