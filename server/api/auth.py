"""Authentication: which tenant a request belongs to, by its API key."""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import UnauthenticatedError
from server.storage.db.api_keys import ApiKey, KeyRing, digest

FRESH_SECONDS = 1.0
"""A key that is made or revoked takes effect after this time at most."""

_TENANT_DIGITS = 16

log = logging.getLogger("paddock.auth")


class Authenticator:
    """Finds the tenant of a request. Keys from the settings are valid for as long as the server runs.

    Without any key, now or ever, every request is accepted and belongs to the tenant "". Once there was a key, requests
    without a valid one are refused: revoking the last key does not open the server.
    """

    def __init__(self, of_settings: Iterable[str], ring: KeyRing, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_settings = [digest(api_key) for api_key in of_settings]
        self._ring = ring
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._take(ring.all())

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._is_open

    async def tenant(self, api_key: str | None) -> str:
        """The tenant of a key, "" where none is needed; raises UnauthenticatedError."""
        await self._refresh()
        if self._is_open:
            return ""
        given = digest(api_key or "")
        # every key is compared, so that the time taken reveals nothing
        matches = [valid for valid in self._valid if hmac.compare_digest(valid, given)]
        if not matches:
            raise UnauthenticatedError(
                "A valid API key is needed: send the header Authorization: Bearer KEY.",
                {"WWW-Authenticate": "Bearer"},
            )
        return matches[0][:_TENANT_DIGITS]

    def knows(self, tenant: str) -> bool:
        """Whether a tenant would still be accepted, as of the last look at the keys."""
        return tenant == "" if self._is_open else tenant in {valid[:_TENANT_DIGITS] for valid in self._valid}

    async def watch(self, dismiss: Callable[[Callable[[str], bool]], None]) -> None:
        """Call `dismiss` again and again with the test that tells which tenants may stay connected."""
        while True:
            await asyncio.sleep(FRESH_SECONDS)
            await self._refresh()
            dismiss(self.knows)

    async def _refresh(self) -> None:
        """Read the keys again if it is time, once for all requests that wait for it."""
        if self._clock() - self._looked_at < FRESH_SECONDS:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            self._take(await asyncio.to_thread(self._ring.all))
        except SQLAlchemyError as error:
            # the last known keys stay valid; a request that needs the records reports what is wrong with them
            log.warning("the API keys cannot be looked up: %s", error)
            self._looked_at = self._clock()

    def _take(self, found: list[ApiKey]) -> None:
        self._valid = [*self._of_settings, *(each.digest for each in found if each.revoked_at is None)]
        self._is_open = not self._of_settings and not found
        self._looked_at = self._clock()
