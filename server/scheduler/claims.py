"""What is done to a generation that a device holds: its records, its files and its subscribers, kept in step."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event
from server.core.generation import Generation
from server.core.logging import ids
from server.engine.protocol import Checkpointed, Previewed, Progressed, RunReport
from server.scheduler.running import RunningAttempt
from server.storage.db.records import StaleAttemptError
from server.storage.db.statements.attempts import Attempts
from server.storage.files.stores import FileStores
from server.storage.files.videos import artifact_key

log = logging.getLogger("paddock.claims")


class Claims:
    """Takes generations for devices, for `lease` seconds at a time; `on_queued` is called when one waits again."""

    def __init__(
        self,
        attempts: Attempts,
        files: FileStores,
        broker: Broker,
        lease: float,
        on_queued: Callable[[], None],
    ) -> None:
        self.attempts = attempts
        self._artifacts = files.videos
        self._checkpoints = files.checkpoints
        self._previews = files.previews
        self._disk = files.disk
        self._broker = broker
        self._lease = lease
        self._on_queued = on_queued
        self.waits_for_room = asyncio.Event()
        """Set when something could not be taken for want of room on the disk."""

    async def claim(self, owner: str, holding: str | None) -> Generation | None:
        """The next generation for a device that holds this model, claimed; none while its video may find no room."""
        if await self._disk.shortage() is not None:
            self.waits_for_room.set()
            return None
        return await self.attempts.claim(owner, self._lease, holding)

    async def renew(self, running: RunningAttempt) -> None:
        """Hold a claim on, and write down how far it is."""
        await self.attempts.renew(running.held, self._lease, running.live.progress, running.fingerprint)

    async def keep(self, running: RunningAttempt, on_lost: Callable[[Generation], Awaitable[None]]) -> None:
        """Hold a claim on for as long as this runs; `on_lost` hears of one that another server has ended."""
        held = running.held
        said = ids(held.id, held.attempt)
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self.renew(running)
            except RecordsUnavailableError:
                log.warning("the claim on generation %s was not renewed; trying again", held.id, extra=said)
            except SQLAlchemyError:
                log.exception("the claim on generation %s was not renewed; trying again", held.id, extra=said)
            except StaleAttemptError:
                if not running.is_cancelled:
                    # another server cancelled it, or took it over: the device has better things to do
                    await on_lost(held)
                return

    def on_report(self, running: RunningAttempt, report: RunReport) -> None:
        """Note how far a worker is, or what of it is saved or to be seen, and tell subscribers of progress."""
        match report:
            case Checkpointed():
                running.saved = report.fraction
            case Previewed():
                # the report of the same step comes next, and tells of it
                running.live = replace(running.live, preview=report.step)
            case Progressed():
                running.advance(report)
                self.announce_progress(running)

    def end_preview(self, running: RunningAttempt) -> None:
        """Remove the picture of a generation that no worker goes on with."""
        running.live = replace(running.live, preview=None)
        self._previews.discard(running.held.id)

    def announce_progress(self, running: RunningAttempt) -> None:
        """Tell subscribers how a generation is doing, unless it is cancelled already."""
        if not running.is_cancelled:
            self._broker.publish(Event(running.held, running.live))

    def announce(self, generation: Generation) -> None:
        """Tell subscribers what became of a generation; one that is over needs no checkpoint any more."""
        if generation.is_terminal:
            self._checkpoints.discard(generation.id)
            self._broker.publish(Event(generation))
        else:
            self._on_queued()

    async def after_worker_death(self, running: RunningAttempt, why: str, *, is_blamed: bool) -> Generation:
        """Adopt a file finished just before the death; else another try, or, if it is blamed, the end by the rule."""
        held = running.held
        adopted = await self._adopt(held)
        if adopted is None:
            self._artifacts.discard(artifact_key(held.id, held.attempt))
        if adopted is not None:
            return adopted
        if not is_blamed:
            return await self.attempts.release(held, running.saved)
        return await self.attempts.worker_died(held, running.live.progress, why, running.saved)

    async def give_back(self, running: RunningAttempt) -> None:
        """Record what became of a generation; if that is not known, return it to the queue."""
        self.end_preview(running)
        with suppress(StaleAttemptError):
            if running.end is not None:
                self.announce(await running.end())
            else:
                self.announce(
                    await self._adopt(running.held) or await self.attempts.release(running.held, running.saved)
                )

    def discard(self, running: RunningAttempt) -> None:
        """Remove what an attempt that counts no more has written; its checkpoint may be another attempt's by now."""
        held = running.held
        self._artifacts.discard(artifact_key(held.id, held.attempt))
        if running.is_cancelled:
            self._checkpoints.discard(held.id)

    async def settle(self, abandoned: Generation) -> None:
        """Adopt the file of a generation whose lease has run out, or return it to the queue."""
        # another server may be first
        with suppress(StaleAttemptError):
            if await self._adopt(abandoned) is None:
                await self.attempts.requeue_abandoned(abandoned)

    async def _adopt(self, held: Generation) -> Generation | None:
        key = self._artifacts.finished(held)
        if key is None:
            return None
        said = ids(held.id, held.attempt)
        log.info("generation %s: its finished file was found and adopted", held.id, extra=said)
        return await self.attempts.succeed(held, key)
