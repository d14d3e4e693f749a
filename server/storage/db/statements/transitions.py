"""Changes of status, each one guarded UPDATE.

It matches the statuses that the law allows the change from and, once a generation is claimed, the attempt that holds
it. If no row matches, the attempt no longer holds the generation, and StaleAttemptError is raised.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, update
from sqlalchemy.dialects import postgresql, sqlite

from server.core.generation import Generation, Outcome, Status, sources
from server.storage.db.records import StaleAttemptError
from server.storage.db.schema import attempts, event_counters, generations
from server.storage.db.statements.rows import from_row
from server.storage.webhooks.outbox import record_events

_INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def change(
    tx: Connection, held: Generation, target: Status, *conditions: ColumnElement[bool], **values: Any
) -> Generation:
    """Update the row that the attempt `held` holds; a change within `processing` keeps the status."""
    allowed = {Status.PROCESSING} if target is Status.PROCESSING else sources(target)
    row = (
        tx.execute(
            update(generations)
            .where(generations.c.id == held.id, generations.c.attempt == held.attempt)
            .where(generations.c.status.in_(allowed), generations.c.owner == held.owner, *conditions)
            .values(status=target, **values)
            .returning(generations)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        raise StaleAttemptError(f"attempt {held.attempt} no longer holds generation {held.id}")
    return from_row(row)


def finish(
    tx: Connection,
    held: Generation,
    target: Status,
    outcome: Outcome,
    now: float,
    *conditions: ColumnElement[bool],
    **values: Any,
) -> Generation:
    """End a generation and the attempt that holds it."""
    # the counter, the generation, its attempt, as everywhere: in other orders two transactions could deadlock
    blank = {"owner": None, "lease_until": None, "event_number": next_event_number(tx, held.tenant)}
    finished = change(tx, held, target, *conditions, completed_at=now, **blank, **values)
    end_attempt(tx, held.id, held.attempt, outcome, now)
    record_events(tx, [finished], now)
    return finished


def next_event_number(tx: Connection, tenant: str, count: int = 1) -> int:
    """Take the next `count` event numbers of a tenant, and return the first.

    Other transactions of the tenant wait for this one's end, so that numbers are committed in their order.
    """
    insert = _INSERT[tx.dialect.name](event_counters).values(tenant=tenant, newest=count)
    counted = insert.on_conflict_do_update(
        index_elements=[event_counters.c.tenant], set_={"newest": event_counters.c.newest + count}
    )
    newest: int = tx.execute(counted.returning(event_counters.c.newest)).scalar_one()
    return newest - count + 1


def requeue(
    tx: Connection, held: Generation, outcome: Outcome, now: float, *conditions: ColumnElement[bool], **values: Any
) -> Generation:
    """Return a generation to the queue, and end the attempt that holds it."""
    blank = {"owner": None, "lease_until": None, "started_at": None}
    requeued = change(tx, held, Status.QUEUED, *conditions, **blank, **values)
    end_attempt(tx, held.id, held.attempt, outcome, now)
    return requeued


def end_attempt(tx: Connection, generation_id: str, attempt: int, outcome: Outcome, now: float) -> None:
    """Record how an attempt ended, unless that is recorded already."""
    tx.execute(
        update(attempts)
        .where(attempts.c.generation_id == generation_id, attempts.c.attempt == attempt)
        .where(attempts.c.outcome.is_(None))
        .values(ended_at=now, outcome=outcome, live=None)
    )
