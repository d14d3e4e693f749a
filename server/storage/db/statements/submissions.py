"""Statements that clients change records by: new generations, and cancellation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, tuple_, update

from server.core.generation import Generation, Origin, Outcome, Status, sources
from server.storage.db import search
from server.storage.db.records import IdempotencyKeyReusedError, IdempotentRequest, QueueLimits
from server.storage.db.schema import generations, requests
from server.storage.db.session import Pool, Repository, Session, in_thread, in_thread_of
from server.storage.db.statements.queue.limits import LimitCheck
from server.storage.db.statements.rows import find, from_row, to_row
from server.storage.db.statements.transitions import end_attempt, next_event_number
from server.storage.webhooks.outbox import record_events

IDEMPOTENCY_SECONDS = 24 * 3600.0
"""How long an idempotency key is remembered."""

_EXPIRED_AT_ONCE = 100
"""So many expired idempotency keys are removed with each request that has one."""

_SUBMITTING = 0x5041_0002


class Submissions(Repository):
    """Records new generations, and cancels them."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._limits = LimitCheck()

    async def insert(
        self, new: Sequence[Generation], limits: QueueLimits, request: IdempotentRequest | None = None
    ) -> Sequence[Generation]:
        """Record a request's generations, all or none, and return them.

        For a request that was carried out before, returns what was recorded then. Raises QueueLimitError if more would
        wait than the limits allow, and IdempotencyKeyReusedError.
        """
        async with self.turn(new[0].tenant):
            return await self._insert(new, await self._words(new), limits, request)

    async def before(self, tenant: str, request: IdempotentRequest) -> Sequence[Generation]:
        """The generations that were recorded for a request before; none if it is new.

        Raises IdempotencyKeyReusedError.
        """
        async with self.turn(tenant):
            return await self._before(tenant, request)

    @in_thread
    def _before(self, tenant: str, request: IdempotentRequest) -> Sequence[Generation]:
        with self._session.write() as tx:
            return self._recorded_before(tx, tenant, request)

    @in_thread_of(Pool.READS)
    def _words(self, new: Sequence[Generation]) -> list[dict[str, Any]]:
        """What to find them by; the thread that writes is everybody's."""
        return search.entries(new)

    @in_thread
    def _insert(
        self,
        new: Sequence[Generation],
        words: list[dict[str, Any]],
        limits: QueueLimits,
        request: IdempotentRequest | None,
    ) -> Sequence[Generation]:
        with self._session.write() as tx:
            if self.is_shared:
                # one after the other, as in SQLite: otherwise two transactions could both be the last within a limit,
                # and a generation could appear after a younger one has been claimed
                tx.execute(select(func.pg_advisory_xact_lock(_SUBMITTING)))
            tenant = new[0].tenant
            if request is not None and (before := self._recorded_before(tx, tenant, request)):
                return before
            self._limits.check(tx, tenant, sum(generation.status is Status.QUEUED for generation in new), limits)
            new = _numbered(tx, new)
            tx.execute(insert(generations), [to_row(generation) for generation in new])
            search.add(tx, words)
            record_events(tx, new, self._session.now())
            self.tell(tx, [generation.id for generation in new])
            if request is not None:
                row = {
                    "tenant": tenant,
                    "key": request.key,
                    "digest": request.digest,
                    "generations": [generation.id for generation in new],
                    "made_at": self._session.now(),
                }
                tx.execute(insert(requests).values(row))
            return new

    def _recorded_before(self, tx: Connection, tenant: str, request: IdempotentRequest) -> list[Generation]:
        """The generations recorded for a request before; none if it is new, or if some of them are gone.

        A generation is gone if it was removed, cancelled because its client hung up, or failed before it began while
        its client waited: that client has come back.
        """
        oldest = self._session.now() - IDEMPOTENCY_SECONDS
        # a few at a time: others wait for this transaction
        expired = select(requests.c.tenant, requests.c.key).where(requests.c.made_at < oldest).limit(_EXPIRED_AT_ONCE)
        tx.execute(delete(requests).where(tuple_(requests.c.tenant, requests.c.key).in_(expired)))
        same = and_(requests.c.tenant == tenant, requests.c.key == request.key)
        row = tx.execute(select(requests).where(same)).mappings().one_or_none()
        if row is None:
            return []
        if row["made_at"] < oldest:
            tx.execute(delete(requests).where(same))
            return []
        if row["digest"] != request.digest:
            raise IdempotencyKeyReusedError(request.key)
        looked_up = [find(tx, id_, tenant) for id_ in row["generations"]]
        found = [each for each in looked_up if each is not None and not _came_to_nothing(each)]
        if len(found) == len(looked_up):
            self._take_over(tx, found)
            return found
        tx.execute(delete(requests).where(same))
        return []

    def _take_over(self, tx: Connection, found: Sequence[Generation]) -> None:
        """Let only this server cancel generations whose client leaves: it has come here from another server."""
        for each in found:
            is_elsewhere = self.is_shared and each.accepted_by not in (None, self.server)
            if is_elsewhere and each.origin is Origin.SYNC and each.status is Status.QUEUED:
                tx.execute(update(generations).where(generations.c.id == each.id).values(accepted_by=self.server))

    async def cancel(self, generation_id: str, tenant: str, *, unless_started: bool = False) -> Generation | None:
        """Cancel a generation (`unless_started`: only if it was never attempted, and its client is at no other server).

        Returns the generation as it was before, None if nothing changed.
        """
        async with self.turn(tenant):
            return await self._cancel(generation_id, tenant, unless_started)

    @in_thread
    def _cancel(self, generation_id: str, tenant: str, unless_started: bool) -> Generation | None:
        with self._session.write() as tx:
            # locked until the commit: PostgreSQL would let it be claimed in between
            before = find(tx, generation_id, tenant, for_update=True)
            if before is None or before.status not in sources(Status.CANCELLED):
                return None
            is_elsewhere = self.is_shared and before.accepted_by not in (None, self.server)
            if unless_started and (before.attempt > 0 or is_elsewhere):
                return None
            now = self._session.now()
            tx.execute(
                update(generations)
                .where(generations.c.id == generation_id, generations.c.status == before.status)
                .values(status=Status.CANCELLED, completed_at=now, owner=None, lease_until=None)
            )
            record_events(tx, [replace(before, status=Status.CANCELLED, completed_at=now)], now)
            end_attempt(tx, before.id, before.attempt, Outcome.CANCELLED, now)
            self.tell(tx, [before.id])
            return before

    @in_thread
    def cancel_waiting_sync(self) -> int:
        """Cancel queued generations whose clients were connected to this server before it restarted.

        Returns how many there were.
        """
        own = [generations.c.accepted_by == self.server] if self.is_shared else []
        now = self._session.now()
        with self._session.write() as tx:
            cancelled = tx.execute(
                update(generations)
                .where(generations.c.status == Status.QUEUED, generations.c.origin == Origin.SYNC)
                .where(generations.c.attempt == 0, *own)
                .values(status=Status.CANCELLED, completed_at=now)
                .returning(generations)
            ).mappings()
            ended = [from_row(row) for row in cancelled]
            record_events(tx, ended, now)
            self.tell(tx, [each.id for each in ended])
            return len(ended)


def _numbered(tx: Connection, new: Sequence[Generation]) -> Sequence[Generation]:
    """Number the events of those that failed as they were submitted."""
    count = sum(generation.status is Status.FAILED for generation in new)
    if not count:
        return new
    numbers = iter(range(next_event_number(tx, new[0].tenant, count), 2**63))
    return [replace(each, event_number=next(numbers)) if each.status is Status.FAILED else each for each in new]


def _came_to_nothing(generation: Generation) -> bool:
    """Whether a client that waited left, or was told that its input or its prompt could not be had."""
    has_not_begun = generation.status is Status.FAILED and generation.attempt == 0
    return generation.origin is Origin.SYNC and (generation.status is Status.CANCELLED or has_not_begun)
