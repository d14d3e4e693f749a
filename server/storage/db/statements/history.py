"""Statements that clients read by: one generation, lists and pages, with places in the queue."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import Connection, Text, and_, bindparam, cast, func, select

from server.core.events import Live
from server.core.fair_queue import Weights
from server.core.generation import Generation, Status
from server.storage.db.records import Filters, Listing, Placed, SearchesBusyError
from server.storage.db.schema import event_counters, generations
from server.storage.db.session import Pool, Repository, Session, in_thread_of
from server.storage.db.statements.library import tags_of
from server.storage.db.statements.live_progress import lives_of
from server.storage.db.statements.queue import fair_queue
from server.storage.db.statements.rows import count_queued, find, from_row, is_among

LIST_LIMIT = 1000

EVENTS_LIMIT = 100
"""So many completions are read at once for a stream of events."""

BATCH_ROWS = 64
BATCH_CHARS = 64 * 1024
"""So many rows of a long list are read at once, or fewer if their requests contain more characters than this."""

SEARCH_SECONDS = 5.0
"""The time limit of a search's statements."""

MAX_WAITING_SEARCHES = 4
"""So many searches of a tenant may wait while another one of its runs."""

Read = Callable[[Connection], Listing]


class History(Repository):
    """Reads generations. `holding` are the weights that each device holds: places in the queue depend on it."""

    def __init__(self, session: Session, max_overtakes: int) -> None:
        super().__init__(session)
        self._max_overtakes = max_overtakes
        self._searches: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()

    async def get(self, generation_id: str, tenant: str, holding: Sequence[Weights | None] = ()) -> Placed | None:
        """A tenant's generation by its id."""
        # a place in a long queue takes long
        async with self.turn(tenant):
            return await self._get(generation_id, tenant, holding)

    @in_thread_of(Pool.READS)
    def _get(self, generation_id: str, tenant: str, holding: Sequence[Weights | None]) -> Placed | None:
        with self._session.read() as tx:
            generation = find(tx, generation_id, tenant)
            if generation is None:
                return None
            queued = [generation.seq] if generation.status is Status.QUEUED else []
            return self._placed(tx, [generation], self._places(tx, tenant, queued, holding))[0]

    async def page(self, filters: Filters, number: int, size: int, holding: Sequence[Weights | None] = ()) -> Listing:
        """List page `number` (from 1) of `size` generations, newest first.

        A search runs on threads of its own, within SEARCH_SECONDS, one at a time for each tenant. Raises
        StatementTimeoutError and SearchesBusyError.
        """
        return await self._listed(filters, lambda tx: self._read_page(tx, filters, number, size, holding))

    async def before(self, filters: Filters, seq: int, size: int, holding: Sequence[Weights | None] = ()) -> Listing:
        """List the `size` newest generations that are older than one, newest first, without a count of all.

        What was recorded or removed meanwhile shifts nothing. Raises as `page` does.
        """
        return await self._listed(filters, lambda tx: self._read_before(tx, filters, seq, size, holding))

    async def after(self, filters: Filters, seq: int, size: int, holding: Sequence[Weights | None] = ()) -> Listing:
        """List the `size` oldest generations that are newer than one, newest first, without a count of all.

        `next` is the `seq` after which a list goes on with newer ones. Raises as `page` does.
        """
        return await self._listed(filters, lambda tx: self._read_after(tx, filters, seq, size, holding))

    async def _listed(self, filters: Filters, read: Read) -> Listing:
        if not filters.search:
            async with self.turn(filters.tenant):
                return await self._read(read)
        async with self._search_turn(filters.tenant):
            return await self._search(read)

    @asynccontextmanager
    async def _search_turn(self, tenant: str) -> AsyncIterator[None]:
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

    async def newest(self, filters: Filters, holding: Sequence[Weights | None] = ()) -> Listing:
        """List the newest generations, newest first, at most LIST_LIMIT."""
        async with self.turn(filters.tenant):
            return await self._newest(filters, holding)

    @in_thread_of(Pool.READS)
    def _newest(self, filters: Filters, holding: Sequence[Weights | None]) -> Listing:
        with self._session.read() as tx:
            # for several statuses at once, SQLite would go through the whole history for the few that wait
            found = [each for one in filters.by_status() for each in self._select(tx, one, LIST_LIMIT, 0)]
            newest = sorted(found, reverse=True)[:LIST_LIMIT]
            return self._listing(tx, filters, newest, len(newest), holding)

    async def rows(self, listing: Listing) -> AsyncIterator[list[Placed]]:
        """The generations of a listing, a few at a time, so that a long one needs little memory.

        Those that were removed in the meantime are left out.
        """
        batch, pending = listing.first, listing.pending
        while True:
            yield list(batch)
            if not pending:
                return
            async with self.turn(listing.tenant):
                batch, pending = await self._batch(listing, pending)

    @in_thread_of(Pool.READS)
    def _batch(self, listing: Listing, pending: Sequence[int]) -> tuple[list[Placed], Sequence[int]]:
        with self._session.read() as tx:
            batch, pending = self._read_batch(tx, listing.tenant, pending)
            return self._placed(tx, batch, listing.places), pending

    def _read_batch(
        self, tx: Connection, tenant: str, pending: Sequence[int]
    ) -> tuple[list[Generation], Sequence[int]]:
        """Read the first generations of `pending`; returns them, and what is still pending."""
        batch: list[Generation] = []
        wanted, size = pending[:BATCH_ROWS], 0
        found = tx.execute(_BATCH, {"wanted": wanted, "whose": tenant}).mappings()
        while size < BATCH_CHARS and (row := found.fetchone()) is not None:
            size += len(row["parameters"])
            batch.append(from_row({**row, "parameters": json.loads(row["parameters"])}))
        found.close()
        if size < BATCH_CHARS:
            return batch, pending[len(wanted) :]
        return batch, pending[pending.index(batch[-1].seq) + 1 :]

    @in_thread_of(Pool.READS)
    def _read(self, read: Read) -> Listing:
        with self._session.read() as tx:
            return read(tx)

    @in_thread_of(Pool.SEARCHES)
    def _search(self, read: Read) -> Listing:
        with self._session.read_within(SEARCH_SECONDS) as tx:
            return read(tx)

    def _read_page(
        self, tx: Connection, filters: Filters, number: int, size: int, holding: Sequence[Weights | None]
    ) -> Listing:
        total = self._count(tx, filters)
        found = self._select(tx, filters, size, (number - 1) * size, total)
        follows = found[-1] if found and number * size < total else None
        return self._listing(tx, filters, found, total, holding, follows)

    def _read_before(
        self, tx: Connection, filters: Filters, seq: int, size: int, holding: Sequence[Weights | None]
    ) -> Listing:
        wanted = select(generations.c.seq).where(filters.clause(), generations.c.seq < seq)
        # one more tells whether the list goes on
        found = tx.scalars(wanted.order_by(generations.c.seq.desc()).limit(size + 1)).all()
        follows = found[size - 1] if len(found) > size else None
        return self._listing(tx, filters, found[:size], None, holding, follows)

    def _read_after(
        self, tx: Connection, filters: Filters, seq: int, size: int, holding: Sequence[Weights | None]
    ) -> Listing:
        wanted = select(generations.c.seq).where(filters.clause(), generations.c.seq > seq)
        found = tx.scalars(wanted.order_by(generations.c.seq).limit(size + 1)).all()
        follows = found[size - 1] if len(found) > size else None
        return self._listing(tx, filters, found[size - 1 :: -1], None, holding, follows)

    async def completed_after(self, number: int, tenant: str) -> list[Generation]:
        """A tenant's generations with event numbers above one, in their order, at most EVENTS_LIMIT.

        They are without what their requests contained, which events do not tell.
        """
        async with self.turn(tenant):
            return await self._completed_after(number, tenant)

    @in_thread_of(Pool.READS)
    def _completed_after(self, number: int, tenant: str) -> list[Generation]:
        event_number = generations.c.event_number
        with self._session.read() as tx:
            rows = tx.execute(
                select(*_SUMMARY)
                .where(generations.c.tenant == tenant, event_number > number)
                .order_by(event_number)
                .limit(EVENTS_LIMIT)
            ).mappings()
            return [from_row(row) for row in rows]

    @in_thread_of(Pool.READS)
    def changed(self, ids: Collection[str]) -> list[tuple[Generation, Live | None]]:
        """Generations of all tenants by their ids, with the progress of those that run, in the order of their events.

        They are without what their requests contained. Those that were removed are left out.
        """
        in_order = generations.c.event_number.asc().nulls_first(), generations.c.seq
        with self._session.read() as tx:
            rows = tx.execute(select(*_SUMMARY).where(is_among(ids)).order_by(*in_order)).mappings()
            found = [from_row(row) for row in rows]
            lives = lives_of(tx, found)
            return [(each, lives.get(each.id)) for each in found]

    async def event_numbers(self, since: float, until: float, tenant: str) -> tuple[int, int]:
        """The event number before a tenant's first completion between two moments, and its newest event number."""
        async with self.turn(tenant):
            return await self._event_numbers(since, until, tenant)

    @in_thread_of(Pool.READS)
    def _event_numbers(self, since: float, until: float, tenant: str) -> tuple[int, int]:
        with self._session.read() as tx:
            newest = tx.scalar(select(event_counters.c.newest).where(event_counters.c.tenant == tenant)) or 0
            event_number, completed_at = generations.c.event_number, generations.c.completed_at
            is_recent = and_(generations.c.tenant == tenant, completed_at.between(since, until))
            first = tx.scalar(select(func.min(event_number)).where(is_recent, event_number.is_not(None)))
            return newest if first is None else first - 1, newest

    @in_thread_of(Pool.READS)
    def queued(self) -> int:
        """How many generations wait, of all tenants."""
        with self._session.read() as tx:
            return count_queued(tx)

    def _listing(
        self,
        tx: Connection,
        filters: Filters,
        found: Sequence[int],
        total: int | None,
        holding: Sequence[Weights | None],
        follows: int | None = None,
    ) -> Listing:
        """The listing of some of a tenant's generations, newest first, with their places in the queue."""
        queued: Collection[int] = ()
        if found and (filters.statuses is None or Status.QUEUED in filters.statuses):
            # by an index alone: the status in a row comes after texts of any length
            is_queued = and_(generations.c.tenant == filters.tenant, generations.c.status == Status.QUEUED)
            between = generations.c.seq.between(found[-1], found[0])
            queued = set(tx.scalars(select(generations.c.seq).where(is_queued, between))) & set(found)
        places = self._places(tx, filters.tenant, queued, holding)
        first, pending = self._read_batch(tx, filters.tenant, found)
        placed = self._placed(tx, first, places)
        return Listing(filters.tenant, {seq: places.get(seq) for seq in found}, placed, pending, total, follows)

    def _placed(self, tx: Connection, found: Sequence[Generation], places: Mapping[int, int | None]) -> list[Placed]:
        """Generations with their places in the queue, the progress that other servers have recorded, and their tags."""
        lives = lives_of(tx, found) if self.is_shared else {}
        tags = tags_of(tx, [each.seq for each in found])
        return [
            Placed(
                each,
                places.get(each.seq) if each.status is Status.QUEUED else None,
                lives.get(each.id),
                tags.get(each.seq, ()),
            )
            for each in found
        ]

    def _places(
        self, tx: Connection, tenant: str, queued: Collection[int], holding: Sequence[Weights | None]
    ) -> dict[int, int]:
        return fair_queue.places(tx, tenant, set(queued), holding, self._max_overtakes) if queued else {}

    def _count(self, tx: Connection, filters: Filters) -> int:
        every = select(func.count()).select_from(generations)
        if filters != Filters() or self.is_shared:
            return tx.scalar(every.where(filters.clause())) or 0
        # SQLite counts all rows by their pages, which is fast, and some rows one by one: a server without API keys has
        # few rows of other tenants
        return (tx.scalar(every) or 0) - (tx.scalar(every.where(generations.c.tenant > "")) or 0)

    def _select(self, tx: Connection, filters: Filters, limit: int, offset: int, total: int | None = None) -> list[int]:
        """At most `limit` generations after `offset` newer ones, newest first; `total` match, if that is known.

        An index alone answers which they are, so the rows before them are skipped without being read.
        """
        seq = generations.c.seq
        order, older = seq.desc(), None if total is None else total - offset - limit
        if older is not None and older < offset:
            # the database counts what it skips one by one: start from the nearer end
            order, limit, offset = seq.asc(), max(limit + min(older, 0), 0), max(older, 0)
        wanted = select(seq).where(filters.clause()).order_by(order).limit(limit).offset(offset)
        return sorted(tx.scalars(wanted), reverse=True)


_CONTENT = ("parameters", "params", "fingerprint", "warnings", "awaited_input", "enhancement")
_SUMMARY = [column for column in generations.c if column.name not in _CONTENT]
_BATCH = (
    select(
        *(column for column in generations.c if column.name != "parameters"),
        # not parsed before its size is known
        cast(generations.c.parameters, Text).label("parameters"),
    )
    .where(generations.c.seq.in_(bindparam("wanted", expanding=True)), generations.c.tenant == bindparam("whose"))
    .order_by(generations.c.seq.desc())
)
