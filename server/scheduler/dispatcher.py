"""The scheduler of one server: all its devices, the queue they take from, and the maintenance behind them."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.models.catalogue import CatalogueEntry
from server.core.circuit_breaker import Tolerance
from server.core.errors import reason
from server.core.events import Broker, Live
from server.core.fair_queue import Weights
from server.core.generation import Generation, Status
from server.engine.interface import Engine
from server.scheduler.claims import Claims
from server.scheduler.device import Device, LoadRequest, UnloadRequest
from server.scheduler.eta import QueueEta
from server.scheduler.executor import DeviceExecutor
from server.scheduler.files.stills import StillsMaker
from server.scheduler.interface import Deployment, DeviceStatus, Drain
from server.scheduler.maintenance import Devices, Maintenance
from server.scheduler.suitability import Resuming
from server.storage.db.store import Store
from server.storage.files.stores import FileStores
from server.storage.retention import Retention

log = logging.getLogger("paddock.dispatcher")


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """A claim holds for `lease` seconds; an idle model is unloaded after `idle_unload` seconds, 0: never."""

    lease: float
    idle_unload: float = 0
    tolerance: Tolerance = field(default_factory=Tolerance)


class Dispatcher:
    """A `Scheduler` with one executor for each engine. Videos have stills if there is a maker of `stills`."""

    def __init__(
        self,
        store: Store,
        files: FileStores,
        retention: Retention,
        broker: Broker,
        catalogue: Mapping[str, CatalogueEntry],
        engines: Sequence[Engine],
        options: SchedulerOptions,
        stills: StillsMaker | None = None,
    ) -> None:
        self._files = files
        self._suspending: asyncio.Future[list[None]] | None = None
        self._catalogue = catalogue
        self._options = options
        self._claims = claims = Claims(store.attempts, files, broker, options.lease, self.wake, stills)
        self._resuming = Resuming(lambda: self._devices)
        self._has_started = False
        self._awaited: dict[str, LoadRequest] = {}
        self.executors: list[DeviceExecutor] = []
        for engine in engines:
            self.add(engine)
        self.maintenance = Maintenance(
            store, files, retention, claims, options.lease, Devices(self._held_ids, self.wake), stills
        )

    # life

    async def start(self) -> None:
        """Settle what this server left before, then let the devices work. Call with the data directory locked."""
        await self.maintenance.recover()
        self._has_started = True
        for executor in self.executors:
            executor.start()
        self.maintenance.start()

    def add(self, engine: Engine, *, is_drained: bool = False) -> None:
        """Let one more device work, whose name no other one has; `is_drained`: have it, but let it take nothing."""
        device = Device(engine, self._options.tolerance)
        executor = DeviceExecutor(device, self._claims, self._catalogue, self._options.idle_unload, self._resuming)
        self.executors.append(executor)
        if is_drained:
            device.is_stopping, device.drain = True, Drain.DRAINED
            return
        # one for each device: on the first they would all be loaded one after the other
        while self._awaited:
            request = self._awaited.pop(next(iter(self._awaited)))
            if not _is_deployed(request.entry.id, self._staying):
                executor.request(request)
                break
        if self._has_started and self._suspending is None:
            executor.start()

    async def remove(self, name: str) -> None:
        """Stop a device at once, and forget it; what was running there returns to the queue.

        The models that it was asked to load are loaded on other devices.
        """
        executor = self._named(name)
        self._hand_over_loads(executor)
        try:
            await executor.stop()
        finally:
            # if only this call was cancelled, `stop` has to wait for it
            if executor.has_stopped:
                self.executors.remove(executor)

    def note_held(self, names: Collection[str]) -> None:
        """Note which devices a worker holds. Those that none of this server holds are left to the server that does."""
        for executor in self._staying:
            device = executor.device
            was_taken, device.is_held = device.is_taken, device.name in names
            if was_taken and not device.is_taken:
                executor.wake()

    async def drain(self, name: str, grace: float) -> None:
        """Have a device save what it makes and return it to the queue, within `grace` seconds; then end its worker.

        It stays, and takes nothing more until it is removed and added again. The models that it was asked to load are
        loaded on other devices.
        """
        executor = self._named(name)
        device = executor.device
        device.drain = Drain.DRAINING
        self._hand_over_loads(executor)
        try:
            await executor.suspend(grace)
            await executor.stop()
        finally:
            if executor.has_stopped:
                device.load_errors.clear()
                device.drain = Drain.DRAINED

    def _named(self, name: str) -> DeviceExecutor:
        return next(executor for executor in self.executors if executor.device.name == name)

    def _hand_over_loads(self, executor: DeviceExecutor) -> None:
        """Have the models that a device was asked to load loaded on others; it is not asked for anything any more."""
        loads = [] if executor.device.is_stopping else executor.device.awaited_loads()
        executor.device.is_stopping = True
        for request in loads:
            self.activate(request.entry)

    async def suspend(self, grace: float) -> None:
        """Start nothing more; save what runs and return it to the queue, within `grace` seconds of the first call."""
        if self._suspending is None:
            self._suspending = asyncio.gather(*(executor.suspend(grace) for executor in self.executors))
        await asyncio.shield(self._suspending)

    async def stop(self) -> None:
        """Stop all devices at once; what was running returns to the queue."""
        stops = (self.maintenance.stop(), *(executor.stop() for executor in self.executors))
        ended = await asyncio.gather(*stops, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                log.error("a device did not stop cleanly", exc_info=error)

    def _held_ids(self) -> set[str]:
        return {running.held.id for device in self._devices for running in device.held}

    # what the service asks

    @property
    def _devices(self) -> list[Device]:
        return [executor.device for executor in self.executors]

    @property
    def _taking(self) -> list[Device]:
        """Those that take generations, or are to when the server runs again."""
        return [device for device in self._devices if device.drain is None]

    @property
    def _staying(self) -> list[DeviceExecutor]:
        """Those that may still be asked for something."""
        return [executor for executor in self.executors if not executor.device.is_stopping]

    def devices(self) -> Sequence[DeviceStatus]:
        """A snapshot of all devices, in the order of the engines."""
        return [device.status() for device in self._devices]

    def wake(self) -> None:
        """Have all devices look at the queue."""
        for executor in self.executors:
            executor.wake()

    def live(self, generation: Generation) -> Live | None:
        """The progress of a generation; None unless this attempt at it runs here."""
        if generation.status is not Status.PROCESSING:
            return None
        for device in self._devices:
            for running in device.held:
                if (running.held.id, running.held.attempt) == (generation.id, generation.attempt):
                    return running.live
        return None

    def queue_eta(self) -> QueueEta:
        """Estimates for the generations that wait, from the state of the devices now."""
        ready = [device for device in self._taking if device.circuit.wait <= 0]
        return QueueEta(ready, [device for device in self._taking if device.circuit.wait > 0])

    @property
    def free_in(self) -> float | None:
        """Seconds until some device takes the next generation; None if that cannot be estimated."""
        known = [
            max(seconds, device.circuit.wait) for device in self._taking if (seconds := device.free_in) is not None
        ]
        return min(known, default=None)

    @property
    def next_weights(self) -> Sequence[Weights | None]:
        """For each device the weights it will hold when it takes its next generation."""
        return [device.next_weights for device in self._taking]

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation wherever it runs; `generation` is the record from before it was cancelled.

        One that waited leaves no checkpoint.
        """
        if generation.status is Status.QUEUED:
            try:
                await self._files.checkpoints.discard(generation)
            except OSError as error:
                # the maintenance removes them later
                log.warning("the checkpoints of generation %s were not removed: %s", generation.id, reason(error))
        # a copy: devices may come and go meanwhile
        for executor in [*self.executors]:
            await executor.cancel(generation)

    def check_claims(self, ids: Collection[str] | None = None) -> None:
        """Find out now whether the claims on these generations still hold (None: all): others may have ended them."""
        for device in self._devices:
            for running in device.held:
                if ids is None or running.held.id in ids:
                    running.is_to_renew.set()

    def deployment(self, model_id: str) -> Deployment:
        """The state of a model on the device where it has come furthest."""
        return _deployment(model_id, self.executors)

    def activate(self, entry: CatalogueEntry) -> None:
        """Load a model on some device, unless one has it; while there is none, on the next that is added."""
        staying = self._staying
        if not staying:
            self._awaited[entry.id] = LoadRequest(entry)
            return
        self._awaited.pop(entry.id, None)
        if not _is_deployed(entry.id, staying):
            # an idle device first, and of those an empty one: the others' models may be needed again
            best = min(
                staying,
                key=lambda executor: (
                    executor.device.lacks.of(Weights(entry.id)) is not None,
                    executor.device.is_taken or executor.device.circuit.wait > 0,
                    executor.device.running is not None,
                    executor.device.next_weights is not None,
                ),
            )
            best.request(LoadRequest(entry))

    def deactivate(self, entry: CatalogueEntry) -> None:
        """Unload a model wherever it is, after what runs with it."""
        self._awaited.pop(entry.id, None)
        for executor in self.executors:
            executor.device.load_errors.pop(entry.id, None)
            if executor.device.deployment(entry.id) in (Deployment.ACTIVE, Deployment.DEPLOYING):
                executor.request(UnloadRequest(entry))


def _deployment(model_id: str, executors: Sequence[DeviceExecutor]) -> Deployment:
    found = {executor.device.deployment(model_id) for executor in executors}
    order = (Deployment.ACTIVE, Deployment.DEPLOYING, Deployment.DEACTIVATING, Deployment.ERROR)
    return next((status for status in order if status in found), Deployment.INACTIVE)


def _is_deployed(model_id: str, executors: Sequence[DeviceExecutor]) -> bool:
    return _deployment(model_id, executors) in (Deployment.ACTIVE, Deployment.DEPLOYING)
