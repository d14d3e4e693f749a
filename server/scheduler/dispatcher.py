"""All devices and what they share: the queue they take from, and what is cleared away behind them."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.catalogue import CatalogueEntry
from server.core.circuit_breaker import Tolerance
from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Live
from server.core.generation import Generation, Status
from server.engine.interface import Engine
from server.scheduler.claims import Claims
from server.scheduler.eta import QueueEta
from server.scheduler.executor import Deployment, DeviceExecutor
from server.storage.db.store import Store
from server.storage.files.checkpoints import Checkpoints
from server.storage.files.disk import Disk
from server.storage.files.previews import Previews
from server.storage.files.videos import Artifacts
from server.storage.retention import Retention

log = logging.getLogger("paddock.dispatcher")

_ROOM_SECONDS = 2.0
_WATCH_SECONDS = 2.0
# no encoder is silent for as long
_LONG_DEAD_SECONDS = 3600.0
# between batches of what is removed, so that it hinders nobody
_CATCH_UP_SECONDS = 0.1


class Dispatcher:
    """All lanes, and what they share."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        checkpoints: Checkpoints,
        previews: Previews,
        broker: Broker,
        catalogue: Mapping[str, CatalogueEntry],
        engines: Sequence[Engine],
        disk: Disk,
        retention: Retention,
        lease: float,
        idle_unload: float = 0,
        tolerance: Tolerance | None = None,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._previews = previews
        self._disk = disk
        self._retention = retention
        self._lease = lease
        self._tasks: list[asyncio.Task[None]] = []
        self._claims = Claims(store.attempts, artifacts, checkpoints, previews, broker, disk, lease, self.wake)
        tolerance = tolerance or Tolerance()
        self.executors = [DeviceExecutor(engine, self._claims, catalogue, idle_unload, tolerance) for engine in engines]

    # life

    async def start(self) -> None:
        """Settle what this server left before, then set the lanes to work. Call with the data directory locked."""
        await self._store.attempts.expire_leases()
        for generation in await self._store.attempts.abandoned():
            await self._claims.settle(generation)
        if dropped := await self._store.submissions.cancel_waiting_sync():
            log.info("%d synchronous generations whose clients are gone were cancelled", dropped)
        self._drop_halves()
        self._checkpoints.sweep()
        self._previews.sweep()
        for executor in self.executors:
            executor.start()
        self._tasks = [asyncio.create_task(self._take_care()), asyncio.create_task(self._await_room())]
        if self._store.is_shared:
            self._tasks.append(asyncio.create_task(self._watch()))

    async def suspend(self, grace: float) -> None:
        """Begin nothing more, and have what runs saved and returned to the queue, within `grace` seconds."""
        await asyncio.gather(*(executor.suspend(grace) for executor in self.executors))

    async def stop(self) -> None:
        """Stop all lanes at once; what was running returns to the queue."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*(executor.stop() for executor in self.executors), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                log.error("a lane did not stop cleanly", exc_info=error)

    async def _take_care(self) -> None:
        """Remove what is to be kept no longer, then look after leases that ran out although no server died."""
        while True:
            try:
                for id_ in await self._store.expiry.ended(self._checkpoints.kept()):
                    self._checkpoints.discard(id_)
                self._drop_previews()
                self._drop_halves()
                is_behind = await self._retention.tidy()
                await asyncio.sleep(_CATCH_UP_SECONDS if is_behind else self._lease)
                for generation in await self._store.attempts.abandoned():
                    if not self._is_held(generation):
                        await self._claims.settle(generation)
                        self.wake()
            except (RecordsUnavailableError, OSError) as error:
                log.warning("tidying up failed, trying again in %g s: %s", self._lease, error)
                await asyncio.sleep(self._lease)
            except Exception:
                log.exception("tidying up met a fault; trying again in %g s", self._lease)
                await asyncio.sleep(self._lease)

    async def _await_room(self) -> None:
        """Set the lanes to work again once the disk has room."""
        while True:
            await self._claims.waits_for_room.wait()
            if await self._disk.shortage() is None:
                self._claims.waits_for_room.clear()
                self.wake()
            else:
                await asyncio.sleep(_ROOM_SECONDS)

    async def _watch(self) -> None:
        """Wake the lanes for what other servers have queued, given back or lost."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                if await self._store.history.queued():
                    self.wake()
            except (RecordsUnavailableError, SQLAlchemyError) as error:
                log.warning("the queue cannot be looked at: %s", error)

    def _is_held(self, generation: Generation) -> bool:
        return generation.id in self._held

    def _drop_previews(self) -> None:
        """Remove what a worker wrote in its last moment, when its generation had been given up."""
        for id_ in self._previews.kept() - self._held:
            self._previews.discard(id_)

    def _drop_halves(self) -> None:
        """Remove half-written videos, also those that a dead worker's encoder began after they had been given up."""
        # other servers' workers may write to the same folder
        self._artifacts.sweep(_LONG_DEAD_SECONDS if self._store.is_shared else 0, self._held)

    @property
    def _held(self) -> set[str]:
        return {running.held.id for executor in self.executors for running in executor.held}

    def wake(self) -> None:
        """Tell the lanes that something was queued."""
        for executor in self.executors:
            executor.wake()

    # what the service asks

    def live(self, generation: Generation) -> Live | None:
        """How a generation is doing, if an attempt at it runs that still counts."""
        if generation.status is not Status.PROCESSING:
            return None
        for executor in self.executors:
            for running in executor.held:
                if (running.held.id, running.held.attempt) == (generation.id, generation.attempt):
                    return running.live
        return None

    def queue_eta(self) -> QueueEta:
        """When those that wait may be done, as things are now."""
        return QueueEta([executor for executor in self.executors if executor.circuit.wait <= 0])

    @property
    def free_in(self) -> float | None:
        """Seconds until some device takes the next generation; None while nobody can tell."""
        known = [
            max(seconds, executor.circuit.wait)
            for executor in self.executors
            if (seconds := executor.free_in) is not None
        ]
        return min(known, default=None)

    @property
    def holding(self) -> list[str | None]:
        """The model each device will hold when it next takes a generation: what the order of the queue depends on."""
        return [executor.holding for executor in self.executors]

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation, cancelled while it was as given, wherever it runs; keep nothing of one that waited."""
        if generation.status is Status.QUEUED:
            self._checkpoints.discard(generation.id)
        for executor in self.executors:
            await executor.cancel(generation)

    def deployment(self, model_id: str) -> Deployment:
        """Where a model is: the most that any lane has of it."""
        found = {executor.deployment(model_id) for executor in self.executors}
        order = (Deployment.ACTIVE, Deployment.DEPLOYING, Deployment.DEACTIVATING, Deployment.ERROR)
        return next((status for status in order if status in found), Deployment.INACTIVE)

    def activate(self, entry: CatalogueEntry) -> None:
        """Have a model loaded on some lane."""
        if self.deployment(entry.id) not in (Deployment.ACTIVE, Deployment.DEPLOYING):
            # an idle device first, and of those an empty one: the others' models may be wanted again
            best = min(
                self.executors,
                key=lambda executor: (
                    executor.circuit.wait > 0,
                    executor.running is not None,
                    executor.holding is not None,
                ),
            )
            best.wish(Deployment.ACTIVE, entry)

    def deactivate(self, entry: CatalogueEntry) -> None:
        """Have a model unloaded wherever it is, after what runs with it."""
        for executor in self.executors:
            executor.failures.pop(entry.id, None)
            if executor.deployment(entry.id) in (Deployment.ACTIVE, Deployment.DEPLOYING):
                executor.wish(Deployment.INACTIVE, entry)
