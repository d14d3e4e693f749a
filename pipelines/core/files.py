"""Files that are complete or absent, also after a power failure."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@asynccontextmanager
async def opened(path: Path, mode: Literal["rb", "wb"]) -> AsyncIterator[BinaryIO]:
    """A context with an open file; a thread opens and closes it, as a disk may hang. Raises OSError.

    The file is closed even if the task is cancelled while the thread opens it, which `asyncio.to_thread` alone would
    leave open.
    """
    opening = asyncio.get_running_loop().run_in_executor(None, lambda: path.open(mode))
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unused)
        raise
    try:
        yield file
    finally:
        # also if the task was cancelled, and a thread still reads or writes
        await asyncio.shield(asyncio.to_thread(file.close))


def _close_unused(opening: "asyncio.Future[BinaryIO]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        # here, as the threads may have ended with the loop
        opening.result().close()


def part_path(path: Path) -> Path:
    """The temporary name, in the same folder, of a file that is still being written."""
    return path.with_name(f".{path.name}.part")


def durable_rename(part: Path, path: Path) -> None:
    """Rename a finished file so that neither its content nor its new name is lost with the power.

    A file that has the name already is replaced.
    """
    sync(part)
    part.replace(path)
    sync(path.parent)


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A context that gives a temporary path to write to, and renames it to `path` at its end.

    After an error the temporary path is removed and `path` is as it was. The temporary path may be made a folder; its
    files are then synced by the caller. Two writers of one path must lock each other out. Without `durable` nothing is
    synced: a power failure may then leave an empty or damaged file.
    """
    part = part_path(path)
    _remove(part)
    try:
        yield part
        if durable:
            durable_rename(part, path)
        else:
            part.replace(path)
    except BaseException:
        # the first error is the one to report
        with suppress(OSError):
            _remove(part)
        raise


def atomic_write(
    path: Path, content: str | bytes | memoryview, *, permissions: int = 0o666, durable: bool = True
) -> None:
    """Write text (UTF-8) or bytes to a file whose old or new content is there at any moment.

    `permissions` are those of the new file, less the process's umask. See `atomic_path` for `durable`. Raises OSError.
    """
    encoded = content.encode() if isinstance(content, str) else content
    with atomic_path(path, durable=durable) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encoded)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
