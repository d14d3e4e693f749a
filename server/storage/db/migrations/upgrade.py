"""Upgrades a database of any earlier version to the schema of this one, all or nothing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, column, func, inspect, select, table

from server.storage.db.migrations.backup import keep_copy

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger("paddock.migrations")

SCRIPTS = Path(__file__).parent
FIRST = "0001"
"""The schema of v0.1.0, which did not record its revision yet."""

_UPGRADING = 0x5041_0001
_APPLIED = table("alembic_version", column("version_num"))


class NewerDatabaseError(Exception):
    """The database has the schema of a newer version of Paddock. Nothing in it was changed."""


def upgrade(engine: Engine) -> None:
    """Apply the missing revisions, all or nothing; a SQLite database with records is copied first.

    Raises NewerDatabaseError, OSError if the copy cannot be written, and SQLAlchemyError.
    """
    known = revisions()
    # the usual case: Alembic, which takes 0.2 s to import, is not needed
    if is_current(engine):
        return
    with engine.begin() as tx:
        if engine.dialect.name == "postgresql":
            # of servers that start at the same time, the others wait here and then find the work done
            tx.execute(select(func.pg_advisory_xact_lock(_UPGRADING)))
        current = _current(tx, known)
        if current != known[-1]:
            with _copied(engine, current, known[-1]):
                _apply(tx, current)


def is_current(engine: Engine) -> bool:
    """Whether a database has this version's schema. It is only read. Raises NewerDatabaseError and SQLAlchemyError."""
    known = revisions()
    with engine.connect().execution_options(reads_only=True) as tx:
        return _current(tx, known) == known[-1]


def revisions() -> list[str]:
    """The revisions that this version knows, oldest first, by their file names."""
    return sorted(path.name.split("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*.py"))


def alembic_config(tx: Connection) -> "Config":
    """The configuration for Alembic's commands to work on this connection, inside its transaction."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = tx
    return config


def _current(tx: Connection, known: list[str]) -> str | None:
    """The revision of a database; None for an empty one."""
    tables = inspect(tx)
    if tables.has_table(_APPLIED.name):
        current = tx.scalar(select(_APPLIED.c.version_num))
        if current is not None and current not in known:
            raise NewerDatabaseError(
                f"The database is of a newer version of Paddock: its schema is {current}, this version knows "
                f"{known[-1]} at most. Start that version, or use another database or data directory."
            )
        return current
    return FIRST if tables.has_table("generations") else None


@contextmanager
def _copied(engine: Engine, current: str | None, target: str) -> Iterator[None]:
    """Keep a copy of a database that is about to change; remove it if the change fails."""
    if current is None:
        yield
        return
    log.info("upgrading the database schema from %s to %s", current, target)
    if engine.dialect.name != "sqlite":
        yield
        return
    assert engine.url.database, "records that are upgraded are in a file"
    copy = keep_copy(Path(engine.url.database), target)
    log.info("a copy of the old database is kept as %s", copy)
    try:
        yield
    except BaseException:
        # repeated failed starts must not displace the copies of real upgrades
        copy.unlink()
        raise


def _apply(tx: Connection, current: str | None) -> None:
    # before the import, which logs the plugins of the library
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command

    config = alembic_config(tx)
    if current is not None:
        command.stamp(config, current)
    command.upgrade(config, "head")
