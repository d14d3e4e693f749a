"""API keys in the records. A generation belongs to the tenant of the key it was submitted with.

A key is set in the settings or made by `paddock key add`. Of the latter only the SHA-256 digest is kept: a key is 256
random bits, so that it cannot be guessed, and a slow hash would add nothing.

The key of the local network is derived from the secret that signs links, so that it can be shown again and stays the
same when the server restarts. Of it, too, only the digest is kept.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Engine, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from server.storage.db.connection import reading, unopened
from server.storage.db.schema import api_keys

FIRST = "first"
"""The name of the key that a server makes for itself."""

LAN = "lan"
"""The name of the key that `paddock serve --lan` makes."""

_PREFIX = "paddock-"

_TENANT_DIGITS = 16


class KeyNameTakenError(Exception):
    """A key has or had this name. Names are not reused, as they tell apart what each key made."""


class KeyNotFoundError(Exception):
    """No valid key has this name."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of a key; times in Unix seconds, `revoked_at` None while it is valid.

    While a valid admin key exists, only admin keys may load and unload models. `webhook_url` is told of what is made
    with the key.
    """

    name: str
    digest: str
    made_at: float
    revoked_at: float | None
    is_admin: bool
    webhook_url: str | None = None

    @property
    def is_valid(self) -> bool:
        """Whether it has not been revoked."""
        return self.revoked_at is None


def digest(api_key: str) -> str:
    """What is stored of a key: its SHA-256, in hexadecimal."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def tenant_of(key_digest: str) -> str:
    """The tenant to whom everything belongs that is made with a key."""
    return key_digest[:_TENANT_DIGITS]


def _derive(secret: str, name: str, made_at: float) -> str:
    mac = hmac.digest(secret.encode(), f"API key {name} of {made_at!r}".encode(), "sha256")
    return _PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("=")


class KeyRing:
    """The API keys in an open database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, *, is_admin: bool = False, webhook_url: str | None = None) -> str:
        """Make a key and return it. It cannot be looked up again. Raises KeyNameTakenError."""
        api_key = _PREFIX + secrets.token_urlsafe(32)
        try:
            with self._engine.begin() as tx:
                row = {"name": name, "digest": digest(api_key), "made_at": time.time(), "is_admin": is_admin}
                tx.execute(insert(api_keys).values(row | {"webhook_url": webhook_url}))
        except IntegrityError as error:
            raise KeyNameTakenError(name) from error
        return api_key

    def derived(self, name: str, server_secrets: Sequence[str]) -> str:
        """Return the key of this name that is derived from one of the secrets, the first for a new one.

        It is made if there is none; one that was revoked is replaced by another. Raises KeyNameTakenError if a key of
        this name is valid that is not derived.
        """
        if (found := self.find_derived(name, server_secrets)) is not None:
            return found
        self._add_derived(name, server_secrets[0])
        # read anew: another server on the same records may have been first
        if (found := self.find_derived(name, server_secrets)) is None:
            raise KeyNameTakenError(name)
        return found

    def find_derived(self, name: str, server_secrets: Sequence[str]) -> str | None:
        """Return the valid key of this name if it is derived from one of the secrets, else None."""
        for key in self.all():
            if key.name == name and key.is_valid:
                candidates = [_derive(secret, name, key.made_at) for secret in server_secrets]
                return next((each for each in candidates if digest(each) == key.digest), None)
        return None

    def _add_derived(self, name: str, secret: str) -> None:
        made_at = time.time()
        row = {"digest": digest(_derive(secret, name, made_at)), "made_at": made_at, "is_admin": False}
        revoked = update(api_keys).where(api_keys.c.name == name, api_keys.c.revoked_at.is_not(None))
        with suppress(IntegrityError), self._engine.begin() as tx:
            if tx.execute(revoked.values(revoked_at=None, **row)).rowcount == 0:
                tx.execute(insert(api_keys).values(name=name, **row))

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
