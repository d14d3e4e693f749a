"""Hears which generations other servers on the same PostgreSQL database have changed.

It takes one connection of its own and, while nothing happens, one small transaction every BEAT_SECONDS: a connection
that does not bring a server's own notifications is as good as lost. Nothing is heard while there is none, so that all
that was committed before a connection was made counts as missed.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.storage.db.session import Repository, Session, in_thread
from server.storage.db.sharing.changes import CHANNEL, announced

log = logging.getLogger("paddock.store")

BEAT_SECONDS = 10.0
RETRY_SECONDS = 2.0
"""While it cannot listen, but the records can be read, all counts as missed so often."""

MAX_PENDING = 1000
"""So many changed generations may wait to be looked at. If there are more, all count as missed."""

_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""For libpq, which by itself waits for hours for a host that is gone: seconds, and milliseconds for the last."""

_BEAT = ""
"""The id of no generation."""


class Listener(Repository):
    """Listens for one server. Its own changes are left out."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._pending: dict[str, None] = {}
        self._has_missed = False
        self._has_news = asyncio.Event()
        self._outage: str | None = None

    async def changes(self) -> AsyncGenerator[Sequence[str] | None, None]:
        """The ids of generations that others have changed, in the order of the commits, each once until it is taken.

        None if changes may have been missed, as after a lost connection: the records have to be read.
        """
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                await self._has_news.wait()
                self._has_news.clear()
                ids, self._pending = [*self._pending], {}
                if self._has_missed:
                    self._has_missed = False
                    yield None
                # what was heard since may have been committed after
                if ids:
                    yield ids
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self) -> None:
        from psycopg import Error

        while True:
            try:
                await self._hear()
            except (Error, RecordsUnavailableError, SQLAlchemyError, OSError) as error:
                self._note_outage(error)
                with suppress(RecordsUnavailableError, SQLAlchemyError):
                    await self._beat()
                    self._miss()
            except Exception:
                log.exception("what other servers do is not heard; trying again in %g s", RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)

    async def _hear(self) -> None:
        """Listen until the connection is lost."""
        from psycopg import AsyncConnection

        engine = self._session.engine
        _, options = engine.dialect.create_connect_args(engine.url)
        arguments: dict[str, Any] = {**_PATIENCE, **options, "autocommit": True}
        async with await AsyncConnection.connect(**arguments) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._miss()
            await self._beat()
            has_beaten = True
            while True:
                is_quiet = True
                async for notification in connection.notifies(timeout=BEAT_SECONDS):
                    is_quiet = False
                    self._note(notification.payload)
                if is_quiet and has_beaten:
                    raise TimeoutError("no notifications arrive. A pooler of connections must pool sessions")
                if is_quiet:
                    await self._beat()
                has_beaten = is_quiet

    @in_thread
    def _beat(self) -> None:
        with self._session.write() as tx:
            self.tell(tx, [_BEAT])

    def _note(self, payload: str) -> None:
        if self._outage is not None:
            log.info("what other servers do is heard again")
            self._outage = None
        server, generation_id = announced(payload)
        if server == self.server or generation_id == _BEAT:
            return
        if len(self._pending) >= MAX_PENDING:
            self._miss()
        self._pending[generation_id] = None
        self._has_news.set()

    def _miss(self) -> None:
        self._pending.clear()
        self._has_missed = True
        self._has_news.set()

    def _note_outage(self, error: Exception) -> None:
        """Log each reason once, however long it lasts."""
        why = " ".join(str(error).split()) or type(error).__name__
        if self._outage != why:
            log.warning("what other servers do is not heard; trying again every %g s: %s", RETRY_SECONDS, why)
        self._outage = why
