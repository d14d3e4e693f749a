"""Turns of tenants at something that only so many may do at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Turns:
    """Lets so many work `at_once` in all, and so many `of_tenant`."""

    def __init__(self, at_once: int, of_tenant: int) -> None:
        self._of_tenant = of_tenant
        self._all = asyncio.Semaphore(at_once)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a tenant's turn, and hold it."""
        own = self._own.setdefault(tenant, asyncio.Semaphore(self._of_tenant))
        async with own, self._all:
            yield
