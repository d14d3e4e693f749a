"""A store on a database of its own, for tests and benchmarks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, create_engine, select

from server.core.fair_queue import Weights
from server.core.generation import Generation
from server.storage.db.connection import open_database
from server.storage.db.records import Filters, Listing, Placed
from server.storage.db.schema import attempts
from server.storage.db.session import Clock, Session
from server.storage.db.sharing.locks import Locks
from server.storage.db.store import Store


def free_locks() -> Locks:
    """The locks of a server that shares its records with no other."""
    return Locks(Session(create_engine("sqlite://")))


@dataclass(frozen=True)
class Page:
    """A page of history with its content, and how many entries there are in all."""

    rows: list[Placed]
    total: int


class StandaloneStore(Store):
    """Opens the database at a URL, and closes it with the store."""

    def __init__(self, url: str | URL, clock: Clock = time.time, **options: Any) -> None:
        self.engine = open_database(url)
        super().__init__(self.engine, clock, **options)

    def close(self) -> None:
        """End the threads and close the database."""
        super().close()
        self.engine.dispose()

    async def newest(self, filters: Filters, holding: Sequence[Weights | None] = ()) -> list[Placed]:
        """The newest generations, with their content."""
        return await self._content(await self.history.newest(filters, holding))

    async def page(self, filters: Filters, number: int, size: int, holding: Sequence[Weights | None] = ()) -> Page:
        """A page of history, with its content."""
        listing = await self.history.page(filters, number, size, holding)
        return Page(await self._content(listing), listing.total)

    async def completed_between(self, since: float, until: float, tenant: str) -> list[Generation]:
        """A tenant's generations that succeeded or failed between two moments, in the order of their numbers."""
        number, _ = await self.history.event_numbers(since, until, tenant)
        return [
            (await self.history.get(each.id, tenant)).generation  # type: ignore[union-attr]
            for each in await self.history.completed_after(number, tenant)
        ]

    async def _content(self, listing: Listing) -> list[Placed]:
        return [placed async for batch in self.history.rows(listing) for placed in batch]

    async def attempt_log(self) -> list[dict[str, Any]]:
        """Every attempt ever made, in order of its start."""
        with self._session.read() as tx:
            rows = tx.execute(select(attempts).order_by(attempts.c.started_at, attempts.c.attempt)).mappings()
            return [dict(row) for row in rows]
