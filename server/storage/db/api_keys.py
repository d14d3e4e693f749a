"""API keys: who may use the server. Whose a generation is, is said by its key's digest.

Keys come from the settings or are made by `paddock key add`. Of those only a digest is kept, by SHA-256: a key is 256
random bits, so that there is nothing to guess, which slow hashes are for.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert, inspect, make_url, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from server.core.errors import UnauthenticatedError
from server.storage.db.connection import open_database, reading, unopened
from server.storage.db.schema import keys

FRESH_SECONDS = 1.0
"""A key that was made or revoked counts after so long at most."""

FIRST = "first"
"""The name of the key that a server makes for itself."""

_PREFIX = "paddock-"
_TENANT_DIGITS = 16

log = logging.getLogger("paddock.keys")


class KeyNameTakenError(Exception):
    """There is a key of that name, or was one: what it made is still told apart by it."""


class KeyNotFoundError(Exception):
    """No key of that name is good."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; times in seconds of the epoch, `revoked_at` None while it is good."""

    name: str
    digest: str
    made_at: float
    revoked_at: float | None


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys in the records; `url` is SQLAlchemy's. Raises DatabaseUnusableError where these cannot be opened."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def add(self, name: str) -> str:
        """Make a key and return it: nobody can look it up again. Raises KeyNameTakenError."""
        key = _PREFIX + secrets.token_urlsafe(32)
        try:
            with self._engine.begin() as tx:
                tx.execute(insert(keys).values(name=name, digest=digest(key), made_at=time.time()))
        except IntegrityError as error:
            raise KeyNameTakenError(name) from error
        return key

    def revoke(self, name: str) -> None:
        """Have a key count no more; raises KeyNotFoundError."""
        with self._engine.begin() as tx:
            good = update(keys).where(keys.c.name == name, keys.c.revoked_at.is_(None))
            if tx.execute(good.values(revoked_at=time.time())).rowcount == 0:
                raise KeyNotFoundError(name)

    def all(self) -> list[Key]:
        """Every key there is or was, oldest first."""
        with reading(self._engine) as tx:
            found = tx.execute(select(keys).order_by(keys.c.made_at, keys.c.name)).mappings()
            return [Key(**row) for row in found]


def are_there_any(url: str) -> bool:
    """Whether the records hold a key, of a server that is yet to start: they are not made, and not brought up to date.

    Records that cannot be read hold none: the start will say what is wrong with them.
    """
    path = make_url(url).database
    if url.startswith("sqlite") and (path is None or not Path(path).exists()):
        return False
    engine = unopened(url)
    try:
        with reading(engine) as tx:
            return inspect(tx).has_table(keys.name) and tx.scalar(select(keys.c.name).limit(1)) is not None
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()


class Gate:
    """Tells whose a request is, by its key. `of_settings` are keys that are good for as long as the server runs.

    Where there is no key and never was one, everybody is nobody in particular. Once there was one, none is let in
    without: whoever revokes the last does not mean to open the server.
    """

    def __init__(self, of_settings: Iterable[str], ring: KeyRing, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_settings = [digest(key) for key in of_settings]
        self._ring = ring
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._take(ring.all())

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._is_open

    async def tenant(self, given: str | None) -> str:
        """Whose key it is, "" where none is needed; raises UnauthenticatedError."""
        await self._refresh()
        if self._is_open:
            return ""
        theirs = digest(given or "")
        # every key is compared, so that the time taken tells nothing
        matches = [good for good in self._good if hmac.compare_digest(good, theirs)]
        if not matches:
            raise UnauthenticatedError(
                "A valid API key is needed: send the header Authorization: Bearer KEY.",
                {"WWW-Authenticate": "Bearer"},
            )
        return matches[0][:_TENANT_DIGITS]

    def knows(self, tenant: str) -> bool:
        """Whether one that was let in before would be now, as far as was last looked up."""
        return tenant == "" if self._is_open else tenant in {good[:_TENANT_DIGITS] for good in self._good}

    async def watch(self, dismiss: Callable[[Callable[[str], bool]], None]) -> None:
        """Have those let go of who would not be let in now: `dismiss` is told again and again who may stay."""
        while True:
            await asyncio.sleep(FRESH_SECONDS)
            await self._refresh()
            dismiss(self.knows)

    async def _refresh(self) -> None:
        """Read the keys anew if it is time, once for all that ask meanwhile."""
        if self._clock() - self._looked_at < FRESH_SECONDS:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            self._take(await asyncio.to_thread(self._ring.all))
        except SQLAlchemyError as error:
            # what was known still holds; what a request needs of the records besides says what is wrong
            log.warning("the keys cannot be looked up: %s", error)
            self._looked_at = self._clock()

    def _take(self, found: list[Key]) -> None:
        self._good = [*self._of_settings, *(key.digest for key in found if key.revoked_at is None)]
        self._is_open = not self._of_settings and not found
        self._looked_at = self._clock()
