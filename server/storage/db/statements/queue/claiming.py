"""Claims of generations for devices, many of them in one transaction."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from server.core.fair_queue import NOTHING, Exclusions, Weights
from server.core.generation import Generation, Status
from server.storage.db.schema import IS_CLAIMABLE, IS_DEFERRED, IS_IN_TURN, attempts, generations
from server.storage.db.session import Pool, Repository, Session, in_thread, in_thread_of
from server.storage.db.statements.queue import fair_queue
from server.storage.db.statements.queue.heads import Census
from server.storage.db.statements.rows import from_row
from server.storage.webhooks.outbox import record_events

MOST_AT_ONCE = 16
"""So many generations are claimed in a transaction at most: other servers wait for its end."""

_CLAIMING = 0x5041_0003


@dataclass(frozen=True, slots=True, eq=False)
class _Ask:
    """A device that asks for a generation, and its answer."""

    owner: str
    lease: float
    holding: Weights | None
    exclusions: Exclusions
    answer: "asyncio.Future[Generation | None]"


class Claiming(Repository):
    """Claims generations for devices.

    `max_overtakes` bounds how many generations may go before an older one that needs other weights, and before
    another tenant's turn (`server.core.fair_queue`).
    """

    def __init__(self, session: Session, max_overtakes: int) -> None:
        super().__init__(session)
        self._max_overtakes = max_overtakes
        self._census = Census()
        self._asking: list[_Ask] = []
        self._answering: asyncio.Task[None] | None = None

    async def claim(
        self, owner: str, lease: float, holding: Weights | None = None, exclusions: Exclusions = NOTHING
    ) -> Generation | None:
        """Claim the next generation for a device that holds the weights `holding`, for `lease` seconds.

        `server.core.fair_queue` says which generation is next, of those that are not excluded. One transaction claims
        for all devices that ask while the one before goes on: claims exclude each other, and hundreds of devices may
        ask at the same moment.
        """
        ask = _Ask(owner, lease, holding, exclusions, asyncio.get_running_loop().create_future())
        self._asking.append(ask)
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        return await ask.answer

    async def _answer(self) -> None:
        """Answer those that ask, until none does."""
        together: list[_Ask] = []
        try:
            while self._asking:
                # whoever was cancelled meanwhile gets nothing
                together, self._asking = [ask for ask in self._asking if not ask.answer.done()], []
                (found,) = await asyncio.gather(self._claim_each(together), return_exceptions=True)
                for ask in together:
                    if ask.answer.done():
                        continue
                    if isinstance(found, BaseException):
                        ask.answer.set_exception(found)
                    elif ask in found:
                        ask.answer.set_result(found[ask])
                self._asking = [*(ask for ask in together if not ask.answer.done()), *self._asking]
        finally:
            # if this was cancelled
            for ask in (*together, *self._asking):
                ask.answer.cancel()

    @in_thread
    def _claim_each(self, together: Sequence[_Ask]) -> dict[_Ask, Generation | None]:
        """Claim for these devices, in their order but for those that hold the same weights as an earlier one.

        Returns what each is answered: all are, unless there is more to claim than one transaction may.
        """
        alike: dict[tuple[Weights | None, Exclusions], list[_Ask]] = {}
        for ask in together:
            alike.setdefault((ask.holding, ask.exclusions), []).append(ask)
        answers: dict[_Ask, Generation | None] = {}
        # nothing is left of all but these
        all_but: set[Exclusions] = set()
        with self._session.write() as tx:
            if self.is_shared:
                # one after the other, as in SQLite: two concurrent claims would both take the same tenant's turn
                tx.execute(select(func.pg_advisory_xact_lock(_CLAIMING)))
            heads = fair_queue.Heads(tx, self._max_overtakes, self._census, counts=True)
            many = 0
            for ask in (ask for group in alike.values() for ask in group):
                is_over = not all_but.isdisjoint({ask.exclusions, NOTHING})
                taken = None if is_over else self._claim_next(tx, heads, ask)
                answers[ask] = taken
                if taken is None:
                    all_but.add(ask.exclusions)
                    continue
                many += 1
                if many == MOST_AT_ONCE:
                    break
        return answers

    def _claim_next(self, tx: Connection, heads: fair_queue.Heads, ask: _Ask) -> Generation | None:
        while (taken := heads.take(ask.holding, ask.exclusions)) is not None:
            claimed = self._claim(tx, taken.generation.seq, ask.owner, ask.lease)
            if claimed is not None:
                fair_queue.note(tx, taken)
                return claimed
            heads.forget()
        return None

    def _claim(self, tx: Connection, seq: int, owner: str, lease: float) -> Generation | None:
        """Claim a queued generation; None when it has just been cancelled."""
        now = self._session.now()
        row = (
            tx.execute(
                update(generations)
                .where(generations.c.seq == seq, IS_CLAIMABLE)
                .values(
                    status=Status.PROCESSING,
                    owner=owner,
                    attempt=generations.c.attempt + 1,
                    lease_until=now + lease,
                    started_at=now,
                    deferred_behind=None,
                )
                .returning(generations)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            return None
        claimed = from_row(row)
        tx.execute(
            insert(attempts).values(generation_id=claimed.id, attempt=claimed.attempt, owner=owner, started_at=now)
        )
        record_events(tx, [claimed], now)
        return claimed

    @in_thread
    def next(self, holding: Weights | None, exclusions: Exclusions = NOTHING) -> Generation | None:
        """The generation that a claim would take now; None when nothing waits."""
        with self._session.read() as tx:
            heads = fair_queue.Heads(tx, self._max_overtakes, self._census, counts=False)
            taken = heads.take(holding, exclusions)
            if taken is None:
                return None
            row = tx.execute(select(generations).where(generations.c.seq == taken.generation.seq)).mappings().one()
            return from_row(row)

    @in_thread_of(Pool.READS)
    def has_work(self) -> bool:
        """Whether anything waits that a device may claim, however much that is."""
        with self._session.read() as tx:
            return any(first is not None for first in tx.execute(_FIRST).one())


# the ends of indexes: for whether there is any row, PostgreSQL may read the history
_FIRST = select(
    select(func.min(generations.c.tenant)).where(IS_IN_TURN).scalar_subquery(),
    select(func.min(generations.c.deferred_behind)).where(IS_DEFERRED).scalar_subquery(),
)
