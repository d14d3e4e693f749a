"""Opens the database: upgrades its schema, and configures its connections for durability."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE, S_IRWXO
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from server.core.settings.sections import StorageSettings
from server.storage.db.errors import explain
from server.storage.db.migrations.upgrade import NewerDatabaseError, is_current, upgrade

BUSY_MS = 10_000
"""How long to wait for a lock that another program holds on a SQLite database."""

_CONNECT_SECONDS = 10


class DatabaseUnusableError(Exception):
    """The database cannot be opened; `str()` says why and, where possible, what to do."""


def database_of(settings: StorageSettings) -> URL:
    """The URL of the database: `database_url`, or a SQLite file in the data directory. Raises DatabaseUnusableError."""
    if settings.database_url is not None:
        return _parse(settings.database_url)
    # built from its parts: the folder's name may have any character
    return URL.create("sqlite", database=str(settings.data_dir / "paddock.db"))


def open_database(url: str | URL) -> Engine:
    """Open the database at a SQLAlchemy URL and upgrade it to this version's schema; raises DatabaseUnusableError."""
    engine = unopened(url)
    with _explained(engine):
        upgrade(engine)
        # a database that is up to date has only been read so far: find out now if it cannot be written
        with engine.begin():
            pass
        if engine.dialect.name == "sqlite" and engine.url.database:
            _keep_from_others(Path(engine.url.database))
    return engine


def check_database(url: URL) -> None:
    """Raise DatabaseUnusableError for a database that cannot be read or is of a newer version. It is left unchanged.

    A file that does not exist yet is as good as an empty one.
    """
    if url.get_backend_name() == "sqlite" and (url.database is None or not Path(url.database).exists()):
        return
    engine = unopened(url)
    with _explained(engine):
        is_current(engine)
    engine.dispose()


@contextmanager
def opened(url: str | URL) -> Iterator[Engine]:
    """Open the database as `open_database` does, and close it at the end of the block."""
    engine = open_database(url)
    try:
        yield engine
    finally:
        engine.dispose()


def unopened(url: str | URL) -> Engine:
    """The engine for a SQLAlchemy URL, which opens nothing yet; raises DatabaseUnusableError for an invalid URL."""
    parsed = _parse(url)
    return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)


def _parse(url: str | URL) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUnusableError(f"database_url is not the URL of a database: {error}") from error


def reading(engine: Engine) -> Connection:
    """A connection for reads of one consistent snapshot, which block no writer."""
    if engine.dialect.name == "sqlite":
        return engine.connect().execution_options(reads_only=True)
    return engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL) -> Engine:
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
    try:
        # a pooled connection may have ended with a restart of the database: no request should fail because of that
        return create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=patience)
    except ImportError as error:
        raise DatabaseUnusableError(
            f"database_url needs the driver psycopg ({error}). Install it: pip install 'paddock[postgres]'."
        ) from error


@contextmanager
def _explained(engine: Engine) -> Iterator[None]:
    """Close the engine if the block fails, and raise DatabaseUnusableError for a problem that the user can solve."""
    try:
        yield
    except BaseException as error:
        engine.dispose()
        if (refusal := _refusal(engine, error)) is not None:
            raise refusal from error
        raise


def _refusal(engine: Engine, error: BaseException) -> DatabaseUnusableError | None:
    """The error for a problem that the user can solve; None for a bug."""
    name = engine.url.render_as_string(hide_password=True)
    # a driver's message may have several lines
    why = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    match error:
        case NewerDatabaseError():
            return DatabaseUnusableError(why)
        case DBAPIError() | OSError():
            outage = explain(error) if isinstance(error, DBAPIError) else None
            return DatabaseUnusableError(
                f"The database {name} cannot be used: {why.rstrip('.')}." + (f" {outage.advice}" if outage else "")
            )
    return None


def _keep_from_others(database: Path) -> None:
    """Take the rights of the machine's other users: the records hold the keys that sign links."""
    for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
        path = database.with_name(name)
        # some disks know no rights, and another owner has to see to it
        with suppress(OSError):
            path.chmod(S_IMODE(path.stat().st_mode) & ~S_IRWXO)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # transactions are begun by hand below: the driver would begin them too late to be IMMEDIATE
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
