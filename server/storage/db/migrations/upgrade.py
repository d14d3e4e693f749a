"""Brings a database to the schema of this version, whichever version left it, or leaves it as it was."""

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
"""The schema of v0.1.0, which did not write down its revision yet."""

_UPGRADING = 0x5041_0001
_APPLIED = table("alembic_version", column("version_num"))


class NewerDatabaseError(Exception):
    """The database was left by a newer version of Paddock; nothing in it was changed."""


def upgrade(engine: Engine) -> None:
    """Apply what is missing, all or nothing; a SQLite database with records in it is copied before.

    Raises NewerDatabaseError, OSError when the copy cannot be made, and SQLAlchemyError from the database.
    """
    known = revisions()
    with engine.connect().execution_options(reads_only=True) as tx:
        # the usual start: Alembic, a fifth of a second to import, is not needed
        if _current(tx, known) == known[-1]:
            return
    with engine.begin() as tx:
        if engine.dialect.name == "postgresql":
            # of servers that start at once, the others wait here and then find it done
            tx.execute(select(func.pg_advisory_xact_lock(_UPGRADING)))
        current = _current(tx, known)
        if current != known[-1]:
            with _copied(engine, current, known[-1]):
                _apply(tx, current)


def revisions() -> list[str]:
    """The revisions that this version knows, oldest first, as its files are named."""
    return sorted(path.name.split("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*.py"))


def alembic_config(tx: Connection) -> "Config":
    """What Alembic's commands need to work on this connection, inside its transaction."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = tx
    return config


def _current(tx: Connection, known: list[str]) -> str | None:
    """The revision of a database, None of an empty one."""
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
    """Keep a copy of a database that is about to change; not when it does not change after all."""
    if current is None:
        yield
        return
    log.info("the database's schema goes from %s to %s", current, target)
    if engine.dialect.name != "sqlite":
        yield
        return
    assert engine.url.database, "records that are upgraded are in a file"
    copy = keep_copy(Path(engine.url.database), target)
    log.info("the database as it was is kept as %s", copy)
    try:
        yield
    except BaseException:
        # a start that is tried over and over must not push out the copies of real upgrades
        copy.unlink()
        raise


def _apply(tx: Connection, current: str | None) -> None:
    from alembic import command

    # what it says of itself is for developers; ours is said above
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = alembic_config(tx)
    if current is not None:
        command.stamp(config, current)
    command.upgrade(config, "head")
