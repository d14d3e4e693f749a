"""Background work: removes what is kept no longer, and wakes the devices when something has changed."""

import asyncio
import logging
from collections.abc import Callable, Set
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from server.core.errors import RecordsUnavailableError, reason
from server.scheduler.claims import Claims
from server.scheduler.files.stills import StillsMaker
from server.scheduler.files.stills_backlog import StillsBacklog
from server.storage.db.store import Store
from server.storage.files.generation_files import attempt_of, generation_of
from server.storage.files.stores import FileStores
from server.storage.retention import Retention

log = logging.getLogger("paddock.maintenance")

_ROOM_SECONDS = 2.0
_WATCH_SECONDS = 2.0
# no encoder is silent for as long
_LONG_DEAD_SECONDS = 3600.0
# between batches of what is removed, so that it delays nothing else
_CATCH_UP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Devices:
    """What maintenance has to know of the devices: the ids of the generations they hold, and how to wake them."""

    held: Callable[[], Set[str]]
    wake: Callable[[], None]


class Maintenance:
    """Runs until it is stopped; looks after leases every `lease` seconds."""

    def __init__(
        self,
        store: Store,
        files: FileStores,
        retention: Retention,
        claims: Claims,
        lease: float,
        devices: Devices,
        stills: StillsMaker | None = None,
    ) -> None:
        self._store = store
        self._files = files
        self._retention = retention
        self._claims = claims
        self._lease = lease
        self._devices = devices
        self._backlog = None
        if stills is not None:
            self._backlog = StillsBacklog(store, files.videos, stills, lambda: bool(devices.held()))
        self.tasks: list[asyncio.Task[None]] = []

    async def recover(self) -> None:
        """Settle what this server left behind when it ended. No device may work yet."""
        await self._store.attempts.expire_leases()
        for generation in await self._store.attempts.abandoned():
            try:
                await self._claims.settle(generation)
            except OSError as error:
                # the others would have to wait for the same
                log.warning("interrupted generations are settled later: %s", reason(error))
                break
        if dropped := await self._store.submissions.cancel_waiting_sync():
            log.info("%d synchronous generations were cancelled, since their clients are gone", dropped)
        try:
            await self._drop_part_files()
            await self._files.checkpoints.sweep()
            await self._drop_previews()
        except OSError as error:
            log.warning("cleaning up failed; trying again later: %s", reason(error))

    def start(self) -> None:
        """Begin to work."""
        self.tasks = [asyncio.create_task(self._tidy()), asyncio.create_task(self._await_room())]
        if self._store.is_shared:
            self.tasks.append(asyncio.create_task(self._watch_queue()))
        if self._backlog is not None:
            self.tasks.append(asyncio.create_task(self._backlog.run()))

    async def stop(self) -> None:
        """Stop at once; returns when nothing uses the records any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _tidy(self) -> None:
        """Remove what is kept no longer, then look for leases that expired although no server died."""
        while True:
            try:
                await self._drop_checkpoints()
                # what a worker wrote in its last moment, when its generation had been given up
                await self._drop_previews()
                await self._drop_part_files()
                # a local copy may be the finished video of one that is not settled
                if await self._settle_abandoned() and self._files.scratch is not None:
                    await self._files.scratch.sweep(self._devices.held())
                is_behind = await self._retention.tidy()
                await asyncio.sleep(_CATCH_UP_SECONDS if is_behind else self._lease)
            except (RecordsUnavailableError, OSError) as error:
                log.warning("cleaning up failed; trying again in %g s: %s", self._lease, error)
                await asyncio.sleep(self._lease)
            except Exception:
                log.exception("cleaning up failed unexpectedly; trying again in %g s", self._lease)
                await asyncio.sleep(self._lease)

    async def _settle_abandoned(self) -> bool:
        """Settle generations whose lease has expired; returns whether all are settled."""
        is_done = True
        for generation in await self._store.attempts.abandoned():
            if generation.id not in self._devices.held():
                try:
                    await self._claims.settle(generation)
                except OSError as error:
                    log.warning("generation %s is settled later: %s", generation.id, reason(error))
                    is_done = False
        return is_done

    async def _await_room(self) -> None:
        """Wake the devices once the disk has room again."""
        while True:
            await self._claims.waits_for_room.wait()
            if await self._files.disk.shortage() is None:
                self._claims.waits_for_room.clear()
                self._devices.wake()
            else:
                await asyncio.sleep(_ROOM_SECONDS)

    async def _watch_queue(self) -> None:
        """Wake the devices for what other servers have queued, given back or lost."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                if await self._store.attempts.has_work():
                    self._devices.wake()
            except (RecordsUnavailableError, SQLAlchemyError) as error:
                log.warning("the queue cannot be read: %s", error)

    async def _drop_checkpoints(self) -> None:
        """Remove the checkpoints of generations that are over."""
        async for page in self._files.checkpoints.pages():
            ended = set(await self._store.expiry.ended([generation_of(file.key) for file in page]))
            await self._files.checkpoints.delete([file.key for file in page if generation_of(file.key) in ended])

    async def _drop_previews(self) -> None:
        """Remove the previews of attempts that nobody runs, and half-written ones."""
        held = self._devices.held()
        async for page in self._files.previews.pages():
            others = [file.key for file in page if generation_of(file.key) not in held]
            # other servers may keep theirs in the same place, and a run may have begun meanwhile
            running = await self._store.expiry.running([*map(generation_of, others)]) if others else {}
            await self._files.previews.discard(
                key for key in others if running.get(generation_of(key)) != attempt_of(key)
            )
        await self._files.previews.sweep(held=held)

    async def _drop_part_files(self) -> None:
        """Remove half-written videos, also those that a dead worker's encoder began after they had been given up."""
        # other servers' workers may write to the same folder
        await self._files.videos.sweep(_LONG_DEAD_SECONDS if self._store.is_shared else 0, self._devices.held())
        if self._files.scratch is None:
            # they may be written at any moment
            await self._files.videos.stills.sweep(_LONG_DEAD_SECONDS)
