"""The lock on a data directory: one server at a time uses it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4


class DataDirInUseError(Exception):
    """Another server uses the data directory."""


@contextmanager
def locked(data_dir: Path) -> Iterator[str]:
    """Lock a data directory for one server. The lock ends with the process, even if it is killed.

    Yields the server's name, which is stored in the directory and identifies its successive servers in a shared
    database. Raises DataDirInUseError at once if another server holds the lock.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    # not mode "w": it would truncate the file of another server
    with (data_dir / "lock").open("a+") as lock:
        _acquire(lock, data_dir)
        yield _server_name(lock)


def _acquire(lock: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataDirInUseError(
            f"Another Paddock server uses the data directory {data_dir}. Stop it, or choose another with --data-dir."
        ) from None


def _server_name(lock: IO[str]) -> str:
    lock.seek(0)
    if not (name := lock.read().strip()):
        name = uuid4().hex
        lock.write(name)
        lock.flush()
    return name
