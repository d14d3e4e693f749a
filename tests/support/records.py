"""A store on a database of its own, for tests and benchmarks."""

import time
from typing import Any

from sqlalchemy import select

from server.storage.db.connection import open_database
from server.storage.db.schema import attempts
from server.storage.db.session import Clock
from server.storage.db.store import Store


class StandaloneStore(Store):
    """Opens the database at a URL, and closes it with the store."""

    def __init__(self, url: str, clock: Clock = time.time, **options: Any) -> None:
        self.engine = open_database(url)
        super().__init__(self.engine, clock, **options)

    def close(self) -> None:
        """End the threads and close the database."""
        super().close()
        self.engine.dispose()

    async def attempt_log(self) -> list[dict[str, Any]]:
        """Every attempt ever made, in order of its start."""
        with self._session.read() as tx:
            rows = tx.execute(select(attempts).order_by(attempts.c.started_at, attempts.c.attempt)).mappings()
            return [dict(row) for row in rows]
