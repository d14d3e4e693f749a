"""Shows here what other servers on the same records do."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event
from server.core.generation import Status
from server.scheduler.interface import Scheduler
from server.storage.db.sharing.listener import Listener
from server.storage.db.statements.history import History

log = logging.getLogger("paddock.sharing")

_AT_ONCE = 100
_BACKOFF_SECONDS = 2.0


class OtherServers:
    """Publishes the events of generations that other servers run, and lets the scheduler look at what they changed."""

    def __init__(self, listener: Listener, history: History, broker: Broker, scheduler: Scheduler) -> None:
        self._listener = listener
        self._history = history
        self._broker = broker
        self._scheduler = scheduler

    async def follow(self) -> None:
        """Pass on what is heard, for as long as this runs."""
        async with aclosing(self._listener.changes()) as changes:
            async for ids in changes:
                if ids is None:
                    self._catch_up()
                else:
                    for start in range(0, len(ids), _AT_ONCE):
                        await self._see_through(ids[start : start + _AT_ONCE])

    def _catch_up(self) -> None:
        """Have everybody look at the records, who would have been told of a change."""
        self._scheduler.check_claims()
        self._scheduler.wake()
        self._broker.fall_behind()

    async def _see_through(self, ids: Sequence[str]) -> None:
        # before the rows are read: a device must not go on with what was cancelled
        self._scheduler.check_claims(ids)
        while True:
            try:
                await self._pass_on(ids)
            except (RecordsUnavailableError, SQLAlchemyError) as error:
                log.warning("what other servers did was not read; trying again in %g s: %s", _BACKOFF_SECONDS, error)
                await asyncio.sleep(_BACKOFF_SECONDS)
            except Exception:
                # a bug must not keep the rest from being heard; who waits for these reads the records
                log.exception("what other servers did was not passed on")
                return self._catch_up()
            else:
                return None

    async def _pass_on(self, ids: Sequence[str]) -> None:
        changed = await self._history.changed(ids)
        for generation, live in changed:
            if generation.is_terminal or live is not None:
                self._broker.publish(Event(generation, live, is_elsewhere=True))
        if any(generation.status is Status.QUEUED for generation, _ in changed):
            self._scheduler.wake()
