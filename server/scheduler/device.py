"""One device: what it holds, which requests to load or unload wait for it, and how healthy it is."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from pipelines.core.progress import GenerationStats
from pipelines.models.catalogue import CatalogueEntry
from server.core.circuit_breaker import CircuitBreaker, Health, Tolerance
from server.core.errors import without_paths
from server.core.estimator import Estimator
from server.core.fair_queue import Weights
from server.engine.interface import (
    DeviceTakenError,
    DeviceUnavailableError,
    Engine,
    EngineState,
    LoadFailedError,
    WeightsMissingError,
    WorkerDiedError,
)
from server.scheduler.interface import Deployment, DeviceStatus, Drain
from server.scheduler.running import RunningAttempt
from server.scheduler.suitability import Fingerprints, Lacks

log = logging.getLogger("paddock.scheduler")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Load a model before the next generation."""

    entry: CatalogueEntry


@dataclass(frozen=True, slots=True)
class UnloadRequest:
    """Unload a model before the next generation, if it is the one that is loaded."""

    entry: CatalogueEntry


class Device:
    """The state of one device, shared by its executor and the attempts that it runs."""

    def __init__(self, engine: Engine, tolerance: Tolerance) -> None:
        self.engine = engine
        self.circuit = CircuitBreaker(tolerance)
        self.estimator = Estimator(engine.durations)
        self.requests: deque[LoadRequest | UnloadRequest] = deque()
        """The oldest first, one for each model besides `applying`."""
        self.applying: LoadRequest | UnloadRequest | None = None
        """The first of them while it is carried out; it stays there until it is done."""
        self.lacks = Lacks()
        self.fingerprints = Fingerprints()
        self.load_errors: dict[str, str] = {}
        """By model: why its last load failed."""
        self.running: RunningAttempt | None = None
        self.finishing: RunningAttempt | None = None
        """A video whose frames are all made, but not its file, while the device makes the next."""
        self.stats = GenerationStats()
        """The sum of all videos finished here since the start."""
        self.is_stopping = False
        """Whether it is to begin nothing more; that is never taken back."""
        self.is_held = False
        """Whether some server has a worker on it, as far as known: this one, or another one of a cluster."""
        self.drain: Drain | None = None
        self._last: Weights | None = None
        self._has_no_file = asyncio.Event()
        self._has_no_file.set()

    @property
    def name(self) -> str:
        """Its name, in logs and metrics."""
        return self.engine.state.device

    @property
    def host(self) -> str | None:
        """The host it is on, if that is one of a cluster: it begins the name of each of its devices."""
        host, _, _ = self.name.rpartition("/")
        return host or None

    @property
    def is_taken(self) -> bool:
        """Whether another server uses it, so that nothing can be made on it from here."""
        return self.is_held and self.state.pid is None

    @property
    def state(self) -> EngineState:
        """What its engine holds."""
        return self.engine.state

    @property
    def is_idle(self) -> bool:
        """Whether it would take a generation now, or as soon as the result of one is recorded."""
        is_free = self.running is None or self.running.ending is not None
        may_take = not self.requests and not self.is_stopping and not self.is_taken
        return is_free and may_take and self.circuit.wait <= 0

    @property
    def held(self) -> list[RunningAttempt]:
        """The attempts that it has taken from the queue and not ended."""
        return [each for each in (self.running, self.finishing) if each is not None]

    @property
    def next_weights(self) -> Weights | None:
        """The weights that it will hold when it takes its next generation, unless something goes wrong."""
        weights = self._last if self.running is None else self.running.held.weights
        if self.running is None and (weights is None or weights.model != self.state.model_id):
            weights = None if self.state.model_id is None else Weights(self.state.model_id)
        for request in self.requests:
            if isinstance(request, LoadRequest):
                weights = Weights(request.entry.id)
            elif weights is not None and weights.model == request.entry.id:
                weights = None
        return weights

    @property
    def free_in(self) -> float | None:
        """Seconds until the running attempt is done, 0 if none runs; None if that cannot be estimated."""
        return 0.0 if self.running is None else self.running.left

    def deployment(self, model_id: str) -> Deployment | None:
        """The state of a model on this device; None if the device has nothing to do with it."""
        state = self.state
        last = next((request for request in reversed(self.requests) if request.entry.id == model_id), None)
        if isinstance(last, LoadRequest):
            return Deployment.DEPLOYING
        if state.model_id == model_id:
            if isinstance(last, UnloadRequest):
                return Deployment.DEACTIVATING
            return Deployment.ACTIVE if state.is_ready else Deployment.DEPLOYING
        return Deployment.ERROR if model_id in self.load_errors else None

    def awaited_loads(self) -> list[LoadRequest]:
        """The requests to load, unless a later one asks to unload the same model."""
        last = {request.entry.id: request for request in self.requests}
        return [request for request in last.values() if isinstance(request, LoadRequest)]

    def status(self) -> DeviceStatus:
        """A snapshot for those above the scheduler."""
        state, circuit = self.state, self.circuit
        return DeviceStatus(
            name=state.device,
            model=state.model_id,
            plan=state.plan,
            loading=state.loading,
            is_busy=self.running is not None,
            is_taken=self.is_taken,
            error=None if (error := circuit.reason or state.error) is None else without_paths(error),
            health=circuit.health,
            failures=circuit.failures,
            retry_in=circuit.wait or None,
            drain=self.drain,
            memory=state.memory,
            compile_error=state.compile_error and without_paths(state.compile_error),
            worker_starts=state.starts,
            stats=self.stats,
        )

    def note_failure(self, about: str, why: str) -> None:
        """Count a failure of the device at a piece of work named `about`: a generation's id, or a model's."""
        # the worker that held it was this server's
        self.is_held = False
        self.circuit.failed(about, why)
        if self.circuit.health is Health.UNHEALTHY:
            log.error("%s is unhealthy; next try in %g s: %s", self.name, self.circuit.wait, why)

    def note_unavailable(self, what: str | Weights, error: DeviceUnavailableError) -> None:
        """Note why a model (its id) or a variant could not be used on the device, which is no fault of any work."""
        match error:
            case DeviceTakenError():
                self.is_held = True
                log.info("%s is used by another server", self.name)
            case WeightsMissingError():
                pause = self.lacks.note(what, str(error))
                log.warning("%s leaves %s to other devices for %g s: %s", self.name, what, pause, error)
            case _:
                self.is_held = False
                self.circuit.blocked(str(error))
                log.error("%s is unhealthy; next try in %g s: %s", self.name, self.circuit.wait, error)

    async def load(self, entry: CatalogueEntry) -> dict[str, str]:
        """Load a model; returns its fingerprint, raises LoadFailedError, WorkerDiedError or DeviceUnavailableError."""
        self.load_errors.pop(entry.id, None)
        try:
            fingerprint = (await self.engine.load(entry)).fingerprint
        except (LoadFailedError, WorkerDiedError, DeviceUnavailableError) as error:
            log.warning("loading %s on %s: %s", entry.id, self.name, error)
            self.load_errors[entry.id] = str(error)
            raise
        self.lacks.forget(entry.id)
        self.fingerprints.note(fingerprint)
        return fingerprint

    async def start_finishing(self, running: RunningAttempt) -> None:
        """Free the device for the next generation, while the file of this one is finished.

        One file at a time is being finished: this waits for the one before.
        """
        await self._has_no_file.wait()
        self._has_no_file.clear()
        self.running, self.finishing = None, running
        self._last = running.held.weights
        running.has_left.set()

    def end(self, running: RunningAttempt) -> None:
        """Let go of an attempt whose result is recorded."""
        if running is self.finishing:
            self.finishing = None
            self._has_no_file.set()
        else:
            self.running = None
            self._last = running.held.weights
        running.has_left.set()
