"""Translates database errors: a sentence for the client, and advice for the operator of the server."""

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError

from server.core.errors import RecordsUnavailableError

_NO_SPACE = "No space left on the server's disk. Nothing was recorded. Try again when there is space."
_LOCKED = "The server's database is locked by another program. Try again in a moment."
_UNWRITABLE = "The server's database cannot be read or written now."
_DAMAGED = "The server's database is damaged."

_BUSY = (
    "Stop the program that has it open. If it is on a network share, which SQLite cannot lock, choose a local folder "
    "with --data-dir, or set PADDOCK_DATABASE_URL to a PostgreSQL database."
)

# by SQLite's primary result code
_OF_SQLITE = {
    sqlite3.SQLITE_FULL: (_NO_SPACE, "Free some space."),
    sqlite3.SQLITE_BUSY: (_LOCKED, _BUSY),
    sqlite3.SQLITE_LOCKED: (_LOCKED, _BUSY),
    sqlite3.SQLITE_READONLY: (_UNWRITABLE, "Make it writable for this user, and its folder too."),
    sqlite3.SQLITE_PERM: (_UNWRITABLE, "Make it writable for this user, and its folder too."),
    sqlite3.SQLITE_CANTOPEN: (_UNWRITABLE, "Make it writable for this user, and its folder too."),
    sqlite3.SQLITE_IOERR: (_UNWRITABLE, "Check its disk."),
    sqlite3.SQLITE_CORRUPT: (_DAMAGED, "Restore a copy, or move it away to start without records."),
    sqlite3.SQLITE_NOTADB: (_DAMAGED, "Restore a copy, or move it away to start without records."),
}
# by SQLSTATE
_OF_SQL = {"53100": (_NO_SPACE, "Free some space.")}


def explain(error: DBAPIError) -> RecordsUnavailableError | None:
    """The error to raise instead of the driver's; None for an error that is a bug in this program."""
    cause = error.orig
    # the low byte is the primary code; the other bits are details
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    found = _OF_SQLITE.get(code) or _OF_SQL.get(getattr(cause, "sqlstate", None) or "")
    if (
        found is None
        and (isinstance(error, OperationalError) or error.connection_invalidated)
        and code != sqlite3.SQLITE_ERROR
    ):
        found = (_UNWRITABLE, "See the database's own log.")
    return None if found is None else RecordsUnavailableError(*found)
