"""The deliveries of events to webhooks: one server at a time holds each, and records how it went."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import RowMapping, delete, func, or_, select, update

from server.core.generation import Generation
from server.storage.db.schema import IS_UNDELIVERED, generations, webhook_deliveries
from server.storage.db.session import Repository, in_thread
from server.storage.db.statements.library import tags_of
from server.storage.db.statements.rows import from_row

LEASE_SECONDS = 60.0
"""For so long a delivery is left to the server that took it. An attempt is over well before."""

MAX_WAITING_OF_TENANT = 10_000
"""So many events of a tenant wait to be delivered; of more the oldest are given up."""

_BATCH = 500
_ROWS = webhook_deliveries.c


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is to be sent, and the attempt at it.

    `id` stays the same in all attempts. `generation` is as it was at `created_at`, its `tags` are those of now.
    `failures` counts the attempts before this one, which `owner` holds.
    """

    id: str
    type: str
    created_at: float
    failures: int
    owner: str
    generation: Generation
    tags: Sequence[str] = ()


class Deliveries(Repository):
    """Hands out what is due, and records what came of it."""

    @in_thread
    def claim(self, busy_tenants: Collection[str] = ()) -> Delivery | None:
        """Take what has been due longest, except for some tenants, for LEASE_SECONDS; None if nothing is due."""
        now = self._session.now()
        due = select(_ROWS.id).where(IS_UNDELIVERED, _ROWS.due_at <= now, _ROWS.tenant.not_in(busy_tenants))
        owner = f"{self.server or ''}/{uuid4().hex}"
        with self._session.write() as tx:
            # what another server is about to take is passed over
            wanted = tx.scalar(due.order_by(_ROWS.due_at).limit(1).with_for_update(skip_locked=True))
            if wanted is None:
                return None
            taken = update(webhook_deliveries).where(_ROWS.id == wanted)
            taken = taken.values(due_at=now + LEASE_SECONDS, owner=owner)
            row = tx.execute(taken.returning(webhook_deliveries)).mappings().one()
            seq = row["snapshot"]["seq"]
            tags = tags_of(tx, [seq]).get(seq, ())
        # only now: one that cannot be read is left alone for a while, and keeps no others back
        return _delivery(row, tags)

    @in_thread
    def delivered(self, delivery: Delivery) -> None:
        """Record that an event has arrived."""
        self._change(delivery, ended_at=self._session.now(), snapshot=None, error=None)

    @in_thread
    def failed(self, delivery: Delivery, error: str, pause: float | None) -> None:
        """Record that an attempt failed. The next one is due after `pause` seconds; None: there is none."""
        now = self._session.now()
        again = {"ended_at": now, "snapshot": None} if pause is None else {"due_at": now + pause}
        self._change(delivery, failures=delivery.failures + 1, error=error, **again)

    def _change(self, delivery: Delivery, **values: object) -> None:
        # if it took so long that another server holds it, that one's attempt counts
        held = update(webhook_deliveries).where(_ROWS.id == delivery.id, _ROWS.owner == delivery.owner)
        with self._session.write() as tx:
            tx.execute(held.values(owner=None, **values))

    @in_thread
    def release(self) -> None:
        """Make due what this server held before it restarted."""
        own = _ROWS.owner.startswith(f"{self.server or ''}/", autoescape=True)
        with self._session.write() as tx:
            held = update(webhook_deliveries).where(IS_UNDELIVERED, own)
            tx.execute(held.values(due_at=self._session.now(), owner=None))

    @in_thread
    def remove_ended(self, before: float) -> None:
        """Remove deliveries that ended before a moment, a batch of them."""
        old = select(_ROWS.id).where(_ROWS.ended_at < before).order_by(_ROWS.ended_at).limit(_BATCH)
        with self._session.write() as tx:
            tx.execute(delete(webhook_deliveries).where(_ROWS.id.in_(old)))

    @in_thread
    def give_up_excess(self, most: int = MAX_WAITING_OF_TENANT) -> int:
        """Give up the oldest events of tenants that have more than `most` waiting. Returns how many."""
        counted = select(_ROWS.tenant, func.count()).where(IS_UNDELIVERED).group_by(_ROWS.tenant)
        now, given_up = self._session.now(), 0
        with self._session.write() as tx:
            for tenant, count in tx.execute(counted.having(func.count() > most)).all():
                is_free = or_(_ROWS.owner.is_(None), _ROWS.due_at < now)
                waiting = select(_ROWS.id).where(IS_UNDELIVERED, _ROWS.tenant == tenant, is_free)
                oldest = waiting.order_by(_ROWS.created_at).limit(min(count - most, _BATCH))
                ended = update(webhook_deliveries).where(_ROWS.id.in_(oldest))
                why = f"more than {most} events were waiting"
                given_up += tx.execute(ended.values(ended_at=now, snapshot=None, owner=None, error=why)).rowcount
        return given_up


def _delivery(row: RowMapping, tags: Sequence[str]) -> Delivery:
    # a server of another version may have recorded other columns
    generation = from_row({name: value for name, value in row["snapshot"].items() if name in generations.columns})
    return Delivery(
        row["id"], row["type"], row["created_at"], row["failures"], row["owner"], generation=generation, tags=tags
    )
