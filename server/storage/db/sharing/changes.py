"""Tells the servers on one PostgreSQL database which generations were changed: by NOTIFY, sent as the change commits.

A notification has two ids, that of the server and that of the generation. What has become of it is in the records.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, text

CHANNEL = "paddock_changes"

_NO_SERVER = "-"
_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")


def announce(tx: Connection, server: str | None, ids: Iterable[str]) -> None:
    """Tell other servers, once a transaction commits, that it has changed these generations. SQLite has no others."""
    payloads = [f"{server or _NO_SERVER} {id_}" for id_ in ids]
    if payloads and tx.dialect.name == "postgresql":
        tx.execute(_NOTIFY, {"channel": CHANNEL, "payloads": payloads})


def announced(payload: str) -> tuple[str, str]:
    """The server that a notification names, and the generation."""
    server, _, generation_id = payload.partition(" ")
    return server, generation_id
