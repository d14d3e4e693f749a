"""The keys that sign links and the ids of uploads. All servers on the same records use the same ones."""

import hashlib
import secrets

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects import postgresql, sqlite

from server.storage.db.schema import signing_keys

_FIRST = "first"
"""The name of the key that signs: that there is one row of this name decides between servers that start at once."""


def keys_that_sign(engine: Engine, imported: str | None = None) -> list[str]:
    """The keys: the first one signs, and the others are still good for what they have signed.

    `imported` is added, unless it is there. If there is none at all, one is made. Several servers may do so at once.
    """
    with engine.begin() as tx:
        _add(tx, _FIRST, imported or secrets.token_urlsafe(32))
        if imported is not None:
            _add(tx, hashlib.sha256(imported.encode()).hexdigest(), imported)
        # each as it is committed: another server may have been first
        rows = tx.execute(select(signing_keys.c.name, signing_keys.c.value)).all()
    first = sorted(rows, key=lambda row: (row.name != _FIRST, row.name))
    return [*dict.fromkeys(row.value for row in first)]


def _add(tx: Connection, name: str, value: str) -> None:
    """Add a key unless one has this name. A server that adds it at the same time is waited for."""
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    tx.execute(insert(signing_keys).values(name=name, value=value).on_conflict_do_nothing())
