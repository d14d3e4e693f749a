"""The limits of the queue, without counting all of it for each new generation."""

import math
import time

from sqlalchemy import Connection

from server.storage.db.records import QueueLimitError, QueueLimits
from server.storage.db.statements.rows import count_queued

PLENTY = 10_000
"""No more generations than these are thought to be enqueued, on all servers, before the queue is counted again."""

COUNTED_SECONDS = 1.0
"""A count is used for so long."""


class LimitCheck:
    """Checks the limits. What waits is counted each time, unless there was far more room a moment ago."""

    def __init__(self) -> None:
        self._counted_at = -math.inf
        self._waiting = 0

    def check(self, tx: Connection, tenant: str, more: int, limits: QueueLimits) -> None:
        """Raise QueueLimitError if a tenant may not have so many more waiting."""
        if self._has_plenty(tenant, more, limits):
            return
        waiting = count_queued(tx)
        self._counted_at, self._waiting = time.monotonic(), waiting
        if waiting + more > limits.total:
            raise QueueLimitError(limits.total, is_per_tenant=False)
        own = count_queued(tx, tenant)
        most = limits.of(tenant, waiting - own)
        if own + more > most:
            raise QueueLimitError(most, is_per_tenant=True)

    def _has_plenty(self, tenant: str, more: int, limits: QueueLimits) -> bool:
        if time.monotonic() - self._counted_at >= COUNTED_SECONDS:
            return False
        # all of these may be the tenant's own, or none
        waiting = self._waiting + PLENTY
        return waiting + more <= min(limits.total, limits.of(tenant, waiting))
