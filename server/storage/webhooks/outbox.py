"""Records the events that webhooks are to be told, in the transactions that change the generations."""

from collections.abc import Iterable
from uuid import uuid4

from sqlalchemy import Connection, insert

from server.core.generation import WEBHOOK_EVENTS, Generation, Status
from server.storage.db.schema import webhook_deliveries
from server.storage.db.statements.rows import to_row


def record_events(tx: Connection, changed: Iterable[Generation], now: float) -> None:
    """Record the events of generations that have just got their status, if their webhooks are to be told of them.

    Each event keeps the generation as it is now: later it may have changed, or been removed.
    """
    rows = []
    for generation in changed:
        event = WEBHOOK_EVENTS.get(generation.status)
        if generation.webhook is None or event is None or event not in generation.webhook.events:
            continue
        if generation.status is Status.PROCESSING and generation.attempt > 1:
            continue
        rows.append(
            {
                "id": f"msg_{uuid4().hex}",
                "tenant": generation.tenant,
                "type": event,
                "snapshot": {**to_row(generation), "seq": generation.seq},
                "created_at": now,
                "due_at": now,
                "failures": 0,
            }
        )
    if rows:
        tx.execute(insert(webhook_deliveries), rows)
