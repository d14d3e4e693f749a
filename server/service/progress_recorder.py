"""Records the progress of what runs here, for the other servers on the same records."""

import asyncio
import logging
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event, Live
from server.storage.db.statements.live_progress import LiveProgress

log = logging.getLogger("paddock.sharing")

EVERY_SECONDS = 1.0
"""Progress is recorded so often at most, in one transaction for all devices, and only the newest."""


class ProgressRecorder:
    """Records the progress in a broker's events. `with_previews`: other servers can read the previews, too."""

    def __init__(self, live_progress: LiveProgress, broker: Broker, *, with_previews: bool) -> None:
        self._live_progress = live_progress
        self._with_previews = with_previews
        self._newest: dict[tuple[str, int], Live] = {}
        self._has_news = asyncio.Event()
        broker.observe(self._note)

    async def run(self) -> None:
        """Record what comes, for as long as this runs. What cannot be recorded is left out."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            newest, self._newest = self._newest, {}
            try:
                if newest:
                    await self._live_progress.record(newest)
            except (RecordsUnavailableError, SQLAlchemyError) as error:
                log.info("progress was not recorded for other servers: %s", error)
            except Exception:
                log.exception("progress was not recorded for other servers")
            await asyncio.sleep(EVERY_SECONDS)

    def _note(self, event: Event) -> None:
        if event.is_elsewhere:
            return
        run = event.generation.id, event.generation.attempt
        if event.live is None:
            self._newest.pop(run, None)
            return
        self._newest[run] = event.live if self._with_previews else replace(event.live, preview=None)
        self._has_news.set()
