"""How the records' database is opened: its schema brought up to date, its connections set to be safe."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from server.migrations.upgrade import NewerDatabaseError, upgrade


class DatabaseUnusableError(Exception):
    """The records cannot be opened; `str()` says why, and what to do where something can be done."""


def in_data_dir(data_dir: Path) -> str:
    """The URL of the database that a data directory holds."""
    return f"sqlite:///{data_dir / 'paddock.db'}"


def open_database(url: str) -> Engine:
    """The database at a URL of SQLAlchemy's, with the schema of this version; raises DatabaseUnusableError."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        upgrade(engine)
    except BaseException as error:
        engine.dispose()
        if (refusal := _refusal(engine, error)) is not None:
            raise refusal from error
        raise
    return engine


def _refusal(engine: Engine, error: BaseException) -> DatabaseUnusableError | None:
    """The sentence for what its user can mend; None for a fault of ours."""
    name = engine.url.render_as_string(hide_password=True)
    match error:
        case NewerDatabaseError():
            return DatabaseUnusableError(str(error))
        case DBAPIError():
            return DatabaseUnusableError(f"The database {name} cannot be used: {error.orig}")
        case OSError():
            return DatabaseUnusableError(f"The database {name} cannot be used: {error}")
    return None


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # transactions are begun by hand below: the driver's own would start too late to be IMMEDIATE
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
