"""Statements that clients read by: one generation, lists and pages, with places in the queue."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import Connection, func, select

from server.core.fair_queue import Weights
from server.core.generation import Generation, Status
from server.storage.db.records import Filters, Page, Placed, SearchesBusyError
from server.storage.db.schema import event_counters, generations
from server.storage.db.session import Pool, Repository, Session, in_thread_of
from server.storage.db.statements import fair_queue
from server.storage.db.statements.rows import count_queued, find, from_row

LIST_LIMIT = 1000

EVENTS_LIMIT = 100
"""So many completions are read at once for a stream of events."""

SEARCH_SECONDS = 5.0
"""The time limit of a search's statements."""

MAX_WAITING_SEARCHES = 4
"""So many searches of a tenant may wait while another one of its runs."""


class History(Repository):
    """Reads generations. `holding` are the weights that each device holds: places in the queue depend on it."""

    def __init__(self, session: Session, max_overtakes: int) -> None:
        super().__init__(session)
        self._max_overtakes = max_overtakes
        self._searches: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()

    @in_thread_of(Pool.READS)
    def get(self, generation_id: str, tenant: str, holding: Sequence[Weights | None] = ()) -> Placed | None:
        """A tenant's generation by its id."""
        with self._session.read() as tx:
            generation = find(tx, generation_id, tenant)
            if generation is None:
                return None
            return self._place(tx, [generation], holding)[0]

    async def page(self, filters: Filters, number: int, size: int, holding: Sequence[Weights | None] = ()) -> Page:
        """Page `number` (from 1) of `size` generations, newest first.

        A search runs on threads of its own, within SEARCH_SECONDS, one at a time for each tenant. Raises
        StatementTimeoutError and SearchesBusyError.
        """
        if not filters.search:
            return await self._page(filters, number, size, holding)
        async with self._turn(filters.tenant):
            return await self._found_page(filters, number, size, holding)

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait until no other search of a tenant runs."""
        if self._waiting[tenant] > MAX_WAITING_SEARCHES:
            raise SearchesBusyError
        self._waiting[tenant] += 1
        try:
            async with self._searches.setdefault(tenant, asyncio.Semaphore()):
                yield
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant], self._searches[tenant]

    @in_thread_of(Pool.READS)
    def newest(self, filters: Filters, holding: Sequence[Weights | None] = ()) -> list[Placed]:
        """The newest generations, newest first, at most LIST_LIMIT."""
        with self._session.read() as tx:
            # for several statuses at once, SQLite would go through the whole history for the few that wait
            found = [each for one in filters.by_status() for each in self._select(tx, one, LIST_LIMIT, 0)]
            newest = sorted(found, key=lambda generation: generation.seq, reverse=True)[:LIST_LIMIT]
            return self._place(tx, newest, holding)

    @in_thread_of(Pool.READS)
    def _page(self, filters: Filters, number: int, size: int, holding: Sequence[Weights | None]) -> Page:
        with self._session.read() as tx:
            return self._read_page(tx, filters, number, size, holding)

    @in_thread_of(Pool.SEARCHES)
    def _found_page(self, filters: Filters, number: int, size: int, holding: Sequence[Weights | None]) -> Page:
        with self._session.read_within(SEARCH_SECONDS) as tx:
            return self._read_page(tx, filters, number, size, holding)

    def _read_page(
        self, tx: Connection, filters: Filters, number: int, size: int, holding: Sequence[Weights | None]
    ) -> Page:
        total = self._count(tx, filters)
        found = self._select(tx, filters, size, (number - 1) * size, total)
        return Page(self._place(tx, found, holding), total)

    @in_thread_of(Pool.READS)
    def completed_after(self, number: int, tenant: str) -> list[Generation]:
        """A tenant's generations with event numbers above one, in their order, at most EVENTS_LIMIT."""
        event_number = generations.c.event_number
        with self._session.read() as tx:
            rows = tx.execute(
                select(generations)
                .where(generations.c.tenant == tenant, event_number > number)
                .order_by(event_number)
                .limit(EVENTS_LIMIT)
            ).mappings()
            return [from_row(row) for row in rows]

    @in_thread_of(Pool.READS)
    def recent(self, since: float, until: float, tenant: str) -> tuple[list[Generation], int]:
        """A tenant's generations that succeeded or failed between two moments, and its newest event number.

        The oldest first, at most LIST_LIMIT.
        """
        with self._session.read() as tx:
            newest = tx.scalar(select(event_counters.c.newest).where(event_counters.c.tenant == tenant)) or 0
            rows = tx.execute(
                select(generations)
                .where(generations.c.completed_at.between(since, until), generations.c.tenant == tenant)
                .where(generations.c.status.in_((Status.SUCCEEDED, Status.FAILED)))
                .order_by(generations.c.completed_at.desc())
                .limit(LIST_LIMIT)
            ).mappings()
            found = [from_row(row) for row in rows][::-1]
            return sorted(found, key=lambda generation: generation.event_number or 0), newest

    @in_thread_of(Pool.READS)
    def queued(self) -> int:
        """How many generations wait, of all tenants."""
        with self._session.read() as tx:
            return count_queued(tx)

    def _place(self, tx: Connection, found: Sequence[Generation], holding: Sequence[Weights | None]) -> list[Placed]:
        """These generations, all of one tenant, with their places in the queue."""
        wanted = {generation.seq for generation in found if generation.status is Status.QUEUED}
        at = fair_queue.places(tx, found[0].tenant, wanted, holding, self._max_overtakes) if wanted else {}
        return [Placed(generation, at.get(generation.seq)) for generation in found]

    def _count(self, tx: Connection, filters: Filters) -> int:
        every = select(func.count()).select_from(generations)
        if filters != Filters() or self.is_shared:
            return tx.scalar(every.where(filters.clause())) or 0
        # SQLite counts all rows by their pages, which is fast, and some rows one by one: a server without API keys has
        # few rows of other tenants
        return (tx.scalar(every) or 0) - (tx.scalar(every.where(generations.c.tenant > "")) or 0)

    def _select(
        self, tx: Connection, filters: Filters, limit: int, offset: int, total: int | None = None
    ) -> list[Generation]:
        """At most `limit` generations after `offset` newer ones, newest first; `total` match, if that is known."""
        seq = generations.c.seq
        order, older = seq.desc(), None if total is None else total - offset - limit
        if older is not None and older < offset:
            # the database counts what it skips one by one: start from the nearer end
            order, limit, offset = seq.asc(), max(limit + min(older, 0), 0), max(older, 0)
        # an index alone answers which they are, so the rows before them are skipped without being read
        wanted = select(seq).where(filters.clause()).order_by(order).limit(limit).offset(offset)
        rows = tx.execute(select(generations).where(seq.in_(wanted)).order_by(seq.desc())).mappings()
        return [from_row(row) for row in rows]
