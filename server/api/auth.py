"""Authentication: finds the tenant of a request by its API key."""

import asyncio
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import ForbiddenError, QueueFullError, UnauthenticatedError
from server.storage.db.api_keys import ApiKey, KeyRing, digest, tenant_of

FRESH_SECONDS = 1.0
"""New and revoked keys take effect within this time."""

_RETRY_SECONDS = 5

log = logging.getLogger("paddock.auth")


class OpenRequests:
    """Counts the requests of each key that are not answered yet, event streams too: at most `limit` at a time.

    Without keys only the connections of each address have a limit (`server.runtime.http.connections`).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @contextmanager
    def count(self, tenant: str) -> Iterator[None]:
        """Count a request until the context ends; raises QueueFullError if there are too many."""
        if not tenant:
            yield
            return
        if self._open[tenant] >= self._limit:
            raise QueueFullError(
                f"{self._limit} requests with this key are open: this is the limit. Wait for answers or close streams.",
                _RETRY_SECONDS,
            )
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]


class Authenticator:
    """Finds the tenant of a request. Keys from the settings are valid as long as the server runs.

    If no key has ever existed, every request is accepted and belongs to the tenant "". Once a key has existed, requests
    without a valid key are refused: revoking the last key does not open the server.

    While a valid admin key exists, what concerns every client is for admin keys only. Keys from the settings are not.
    """

    def __init__(self, configured: Iterable[str], ring: KeyRing, clock: Callable[[], float] = time.monotonic) -> None:
        self._configured = [digest(api_key) for api_key in configured]
        self._ring = ring
        self._clock = clock
        self._refreshing: asyncio.Task[None] | None = None
        self._set_keys(ring.all())

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return self._is_open

    async def tenant(self, api_key: str | None) -> str:
        """Return the tenant of a key, or "" if no key is needed. Raises UnauthenticatedError."""
        await self._refresh()
        if self._is_open:
            return ""
        given = digest(api_key or "")
        # compare with every key, so that the time taken reveals nothing
        matches = [valid for valid in self._valid if hmac.compare_digest(valid, given)]
        if not matches:
            raise _unauthenticated()
        return tenant_of(matches[0])

    def webhook_url(self, tenant: str) -> str | None:
        """Return the webhook of a tenant's key, by the keys as last read; None if it has none."""
        return self._webhooks.get(tenant)

    def check(self, tenant: str) -> None:
        """Raise UnauthenticatedError if a tenant's requests are no longer accepted, by the keys as last read."""
        if not self.accepts(tenant):
            raise _unauthenticated()

    def check_admin(self, tenant: str) -> None:
        """Raise ForbiddenError if there are admin keys and this tenant's is not one, by the keys as last read."""
        if self._admins and tenant not in self._admins:
            raise ForbiddenError(
                "Only an admin key may load or unload models on this server. Send one, which its operator makes with "
                "`paddock key add NAME --admin`. Generations load their model without it."
            )

    def accepts(self, tenant: str) -> bool:
        """Whether requests of a tenant are accepted, by the keys as last read."""
        return tenant == "" if self._is_open else tenant in self._tenants

    async def watch(self, dismiss: Callable[[Callable[[str], bool]], None]) -> None:
        """Read the keys periodically; after each time call `dismiss` with the test of which tenants stay connected."""
        try:
            while True:
                await asyncio.sleep(FRESH_SECONDS)
                await self._refresh()
                dismiss(self.accepts)
        finally:
            # its thread has a connection to the database, which is closed next
            if self._refreshing is not None:
                await asyncio.wait({self._refreshing})

    async def _refresh(self) -> None:
        """Read the keys again if they are older than FRESH_SECONDS; concurrent requests share one read."""
        if self._clock() - self._refreshed_at < FRESH_SECONDS:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read_keys())
        await asyncio.shield(self._refreshing)

    async def _read_keys(self) -> None:
        try:
            self._set_keys(await asyncio.to_thread(self._ring.all))
        except SQLAlchemyError as error:
            # the last known keys stay valid; requests that need the database report its error
            log.warning("cannot read the API keys: %s", error)
            self._refreshed_at = self._clock()

    def _set_keys(self, found: list[ApiKey]) -> None:
        valid = [each for each in found if each.is_valid]
        self._valid = [*self._configured, *(each.digest for each in valid)]
        self._tenants = {tenant_of(each) for each in self._valid}
        self._admins = {tenant_of(each.digest) for each in valid if each.is_admin}
        self._webhooks = {tenant_of(each.digest): each.webhook_url for each in valid}
        self._is_open = not self._configured and not found
        self._refreshed_at = self._clock()


def _unauthenticated() -> UnauthenticatedError:
    return UnauthenticatedError(
        "A valid API key is required. Send the header Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"}
    )
