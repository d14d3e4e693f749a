"""One server at a time works on a data directory."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4


class DataDirInUseError(Exception):
    """Another server works on the data directory."""


@contextmanager
def locked(data_dir: Path) -> Iterator[str]:
    """Hold a data directory for one server; the lock ends with the process, however it ends.

    Yields the name under which the directory's servers, one after the other, are known to a database they share.
    Raises DataDirInUseError at once if another server holds it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    # not for writing only: that would empty another server's
    with (data_dir / "lock").open("a+") as lock:
        _take(lock, data_dir)
        yield _name_in(lock)


def _take(lock: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataDirInUseError(
            f"Another Paddock server uses the data directory {data_dir}. Stop it, or choose another with --data-dir."
        ) from None


def _name_in(lock: IO[str]) -> str:
    lock.seek(0)
    if not (name := lock.read().strip()):
        name = uuid4().hex
        lock.write(name)
        lock.flush()
    return name
