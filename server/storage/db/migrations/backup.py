"""Copies of a SQLite database from before its schema changed: the way back to the version that wrote it."""

import shutil
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

from pipelines.core.files import atomic_path

COPIES_KEPT = 3


def keep_copy(database: Path, target: str) -> Path:
    """Copy the committed content before the schema goes to revision `target`; returns the path of the copy.

    No copy is overwritten. The newest COPIES_KEPT stay. Raises OSError when the copy cannot be written.
    """
    kept = _free_name(database, target)
    try:
        # not a copy of the file: committed content may still be in the log beside it
        with atomic_path(kept) as part:
            part.touch()
            # nobody may read it who may not read the database
            shutil.copymode(database, part)
            with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
    except sqlite3.Error as error:
        raise OSError(f"it could not be copied before its schema changes: {error}") from error
    for old in copies(database)[COPIES_KEPT:]:
        old.unlink()
    return kept


def copies(database: Path) -> list[Path]:
    """The existing copies, newest first."""
    found = database.parent.glob(f"{database.name}.before-*")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _free_name(database: Path, target: str) -> Path:
    name = f"{database.name}.before-{target}"
    names = (database.with_name(name if n == 1 else f"{name}.{n}") for n in count(1))
    return next(path for path in names if not path.exists())
