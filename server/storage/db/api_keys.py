"""API keys in the records. A generation belongs to the tenant of the key it was submitted with.

A key is set in the settings or made by `paddock key add`. Of the latter only the SHA-256 digest is kept: a key is 256
random bits, so that it cannot be guessed, and a slow hash would add nothing.
"""

import hashlib
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Engine, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from server.storage.db.connection import reading, unopened
from server.storage.db.schema import api_keys

FIRST = "first"
"""The name of the key that a server makes for itself."""

_PREFIX = "paddock-"


class KeyNameTakenError(Exception):
    """A key has or had this name. Names are not reused, as they tell apart what each key made."""


class KeyNotFoundError(Exception):
    """No valid key has this name."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of a key; times in Unix seconds, `revoked_at` None while it is valid.

    While a valid admin key exists, only admin keys may load and unload models.
    """

    name: str
    digest: str
    made_at: float
    revoked_at: float | None
    is_admin: bool

    @property
    def is_valid(self) -> bool:
        """Whether it has not been revoked."""
        return self.revoked_at is None


def digest(api_key: str) -> str:
    """What is stored of a key: its SHA-256, in hexadecimal."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class KeyRing:
    """The API keys in an open database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, *, is_admin: bool = False) -> str:
        """Make a key and return it. It cannot be looked up again. Raises KeyNameTakenError."""
        api_key = _PREFIX + secrets.token_urlsafe(32)
        try:
            with self._engine.begin() as tx:
                row = {"name": name, "digest": digest(api_key), "made_at": time.time(), "is_admin": is_admin}
                tx.execute(insert(api_keys).values(row))
        except IntegrityError as error:
            raise KeyNameTakenError(name) from error
        return api_key

    def revoke(self, name: str) -> None:
        """Make a key invalid; raises KeyNotFoundError."""
        with self._engine.begin() as tx:
            valid = update(api_keys).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
            if tx.execute(valid.values(revoked_at=time.time())).rowcount == 0:
                raise KeyNotFoundError(name)

    def all(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first."""
        with reading(self._engine) as tx:
            found = tx.execute(select(api_keys).order_by(api_keys.c.made_at, api_keys.c.name)).mappings()
            return [ApiKey(**row) for row in found]


def are_there_any(url: URL) -> bool:
    """Whether the records hold a key, before a server starts: this neither creates nor upgrades a database.

    False for records that cannot be read: the start itself will report what is wrong.
    """
    if url.get_backend_name() == "sqlite" and (url.database is None or not Path(url.database).exists()):
        return False
    engine = unopened(url)
    try:
        with reading(engine) as tx:
            return inspect(tx).has_table(api_keys.name) and tx.scalar(select(api_keys.c.name).limit(1)) is not None
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()
