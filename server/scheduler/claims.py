"""Claims on generations: keeps the record, the files and the subscribers of a claimed generation in step."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.progress import SILENT, Stage
from pipelines.core.request import VideoParams
from server.core.errors import RecordsUnavailableError, reason, without_paths
from server.core.events import Broker, Event
from server.core.fair_queue import NOTHING, Exclusions, Weights
from server.core.generation import Generation
from server.core.logging import ids
from server.core.retry import Blame, Interruption, NextStep, decide
from server.engine.protocol import Checkpointed, Previewed, Progressed, RunReport, Warned
from server.scheduler.files.stills import StillsMaker
from server.scheduler.running import End, RunningAttempt
from server.storage.db.records import StaleAttemptError
from server.storage.db.statements.attempts import Attempts
from server.storage.files.previews import preview_key
from server.storage.files.stores import FileStores
from server.storage.files.videos import video_key

log = logging.getLogger("paddock.claims")

_NO_SOUND = f"{SILENT} Making its sound ended the worker."
_MOST_DEADLY = 1000

_NEXT_STEPS = {NextStep.MOVE_TO_END: "moved to the end of the queue", NextStep.FAIL: "failed"}


class Claims:
    """Claims generations for devices, for `lease` seconds at a time; `on_queued` is called when one waits again.

    Videos are finished with their `stills` (None: without any).
    """

    def __init__(
        self,
        attempts: Attempts,
        files: FileStores,
        broker: Broker,
        lease: float,
        on_queued: Callable[[], None],
        stills: StillsMaker | None = None,
    ) -> None:
        self.attempts = attempts
        self._files = files
        self._videos = files.videos
        self._checkpoints = files.checkpoints
        self._previews = files.previews
        self._disk = files.disk
        self._broker = broker
        self._lease = lease
        self._on_queued = on_queued
        self._stills = stills
        self._deadly_sounds: OrderedDict[str, None] = OrderedDict()
        """The generations whose worker died while it made a sound."""
        self.waits_for_room = asyncio.Event()
        """Set when a generation was not claimed, since the disk has too little space."""

    async def claim(self, owner: str, holding: Weights | None, exclusions: Exclusions = NOTHING) -> Generation | None:
        """Claim the next generation for a device that holds these weights, and can make all but some.

        None while the disk has too little space.
        """
        if await self._disk.shortage() is not None:
            self.waits_for_room.set()
            return None
        return await self.attempts.claim(owner, self._lease, holding, exclusions)

    async def renew(self, running: RunningAttempt) -> None:
        """Extend a claim, and record the progress that its checkpoint holds, and its warnings."""
        running.is_to_renew.clear()
        facts = (running.saved, running.fingerprint, running.warnings, running.host)
        await self.attempts.renew(running.held, self._lease, *facts)

    async def keep(self, running: RunningAttempt, on_lost: Callable[[Generation], Awaitable[None]]) -> None:
        """Extend a claim for as long as this runs; `on_lost` is called if another server has ended it.

        A checkpoint is recorded at once: if this server is killed, the record says what the generation has reached.
        """
        held = running.held
        said = ids(held.id, held.attempt)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await running.is_to_renew.wait()
            try:
                await self.renew(running)
                await self._supersede(running)
            except RecordsUnavailableError:
                log.warning("the claim on generation %s was not renewed; trying again", held.id, extra=said)
            except SQLAlchemyError:
                log.exception("the claim on generation %s was not renewed; trying again", held.id, extra=said)
            except StaleAttemptError:
                if not running.is_cancelled:
                    running.is_lost = True
                    # another server cancelled it, or took it over: the device must not go on
                    await on_lost(held)
                return

    async def _supersede(self, running: RunningAttempt) -> None:
        """Remove the checkpoints of earlier attempts once the records say that this one has its own."""
        if running.has_checkpoint and not running.is_to_renew.is_set() and not running.has_superseded:
            try:
                await self._checkpoints.supersede(running.held)
                running.has_superseded = True
            except OSError as error:
                log.warning("old checkpoints of generation %s were not removed: %s", running.held.id, reason(error))

    async def newest_checkpoint(self, held: Generation) -> str | None:
        """The key of the checkpoint that an attempt resumes from, if there is one; raises OSError."""
        return await self._checkpoints.newest(held)

    def on_report(self, running: RunningAttempt, report: RunReport) -> None:
        """Take in the report of a worker, and publish progress to subscribers."""
        match report:
            case Checkpointed():
                running.saved = report.fraction
                running.has_checkpoint = True
                running.is_to_renew.set()
            case Previewed():
                # the progress of the same step comes next, and is published with it
                running.live = replace(running.live, preview=report.step)
            case Warned():
                # an earlier attempt may have given the same
                said = (*running.held.warnings, *running.warnings, *map(without_paths, report.warnings))
                running.warnings = tuple(dict.fromkeys(said))
                # they are recorded with the claim
                running.is_to_renew.set()
            case Progressed():
                running.advance(report)
                self.announce_progress(running)

    async def end_preview(self, running: RunningAttempt) -> None:
        """Remove the preview of a generation that no worker goes on with."""
        running.live = replace(running.live, preview=None)
        await self._previews.discard([preview_key(running.held.id, running.held.attempt)])

    def announce_progress(self, running: RunningAttempt) -> None:
        """Publish the progress of a generation, unless it is cancelled already."""
        if not running.is_cancelled:
            self._broker.publish(Event(running.held, running.live))

    async def conclude(self, running: RunningAttempt, end: End) -> None:
        """Record the result of an attempt by `end`, and announce it, both once.

        Both go on if the caller is cancelled, since the store's thread commits all the same: whoever concludes the
        attempt again then waits for them. If the records cannot be written now, `running.end` is for another try.
        """
        running.end = end
        if running.ending is None:
            running.ending = asyncio.create_task(self._conclude(running, end))
        await asyncio.shield(running.ending)

    async def _conclude(self, running: RunningAttempt, end: End) -> None:
        try:
            await self.announce(await end())
        except BaseException:
            running.ending = None
            raise

    async def announce(self, generation: Generation) -> None:
        """Publish the result of a generation, and remove its checkpoints; wake the devices if it waits again."""
        if generation.is_terminal:
            # first: where files are kept may not answer for a minute
            self._broker.publish(Event(generation))
            try:
                await self._checkpoints.discard(generation)
            except OSError as error:
                # the maintenance removes them later
                log.warning("the checkpoints of generation %s were not removed: %s", generation.id, reason(error))
        else:
            self._on_queued()

    async def after_worker_death(self, running: RunningAttempt, why: str, blame: Blame) -> Generation:
        """Adopt a file that was finished just before the death; else decide what becomes of the generation."""
        held = running.held
        adopted = await self._adopt(held)
        if adopted is not None:
            return adopted
        await self._videos.delete([video_key(held.id, held.attempt)])
        if running.live.stage == Stage.SOUND:
            self._deadly_sounds[held.id] = None
            if len(self._deadly_sounds) > _MOST_DEADLY:
                self._deadly_sounds.popitem(last=False)
        if blame is Blame.NONE:
            return await self.release(running)
        return await self._retry(held, Interruption(blame, running.live.progress, running.saved, why))

    def without_deadly_sound(self, running: RunningAttempt, params: VideoParams) -> VideoParams:
        """The parameters of an attempt, without the sound if an earlier one died of it: a sound costs no video."""
        if running.held.id not in self._deadly_sounds:
            return params
        running.warnings = (*running.held.warnings, *running.warnings, _NO_SOUND)
        return replace(params, generate_audio=False, audio_prompt=None)

    async def make_stills(self, held: Generation, key: str) -> bool | None:
        """Make the stills of a finished video; whether it has them, None if that is not known yet. Raises nothing."""
        return None if self._stills is None else await self._stills.make_soon(held, key)

    async def release(self, running: RunningAttempt) -> Generation:
        """Return a generation to the queue that was stopped and is not to blame for it."""
        return await self._retry(running.held, Interruption(Blame.NONE, running.saved, running.saved))

    async def give_back(self, running: RunningAttempt) -> None:
        """Record the result of a generation; if that is not known, return it to the queue."""
        await self.end_preview(running)
        with suppress(StaleAttemptError):
            await self.conclude(running, running.end or partial(self._adopt_or_release, running))

    async def _adopt_or_release(self, running: RunningAttempt) -> Generation:
        try:
            adopted = await self._adopt(running.held)
        except OSError as error:
            # held until its lease ends, it would count as a death of this server
            log.warning("a finished file of %s was not looked for: %s", running.held.id, reason(error))
            adopted = None
        return adopted or await self.release(running)

    async def discard(self, running: RunningAttempt) -> None:
        """Remove what an attempt has written that was cancelled here.

        Of one that another server has ended nothing is removed: that server may have adopted its video, or resume from
        its checkpoint. Files that no row names are removed later.
        """
        if running.is_cancelled and not running.is_lost:
            held = running.held
            await self._videos.delete([video_key(held.id, held.attempt)])
            await self._checkpoints.discard(held)

    async def settle(self, abandoned: Generation) -> None:
        """Adopt the file of a generation whose lease has expired, or decide what becomes of it."""
        blame = Blame.SERVER if self.attempts.owns(abandoned) else Blame.HOST
        saved = abandoned.progress
        # another server may be first
        with suppress(StaleAttemptError):
            adopted = await self._adopt(abandoned)
            await self.announce(adopted or await self._retry(abandoned, Interruption(blame, saved, saved)))

    async def _retry(self, held: Generation, interruption: Interruption) -> Generation:
        decision = decide(held, interruption)
        retried = await self.attempts.retry(held, decision)
        if decision.next_step is not NextStep.KEEP_PLACE:
            log.warning(
                "generation %s: %s after %d deaths of its worker and %d of its server without progress",
                *(held.id, _NEXT_STEPS[decision.next_step], decision.worker_deaths, decision.server_deaths),
                extra=ids(held.id, held.attempt),
            )
        return retried

    async def _adopt(self, held: Generation) -> Generation | None:
        key = await self._videos.finished(held)
        if key is None and self._files.scratch is not None:
            key = await self._files.scratch.rescue(held)
        if key is None:
            return None
        said = ids(held.id, held.attempt)
        log.info("generation %s: its finished file was found and is kept", held.id, extra=said)
        return await self.attempts.succeed(held, key, has_audio=await self._videos.has_audio(held, key))
