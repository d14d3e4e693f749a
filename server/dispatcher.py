"""From the queue to the devices: claim → run → record, one lane a device, as few loads as a bounded wait allows."""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from pipelines.catalogue import CatalogueEntry
from server.artifacts import Artifacts, artifact_key
from server.checkpoints import Checkpoints, checkpoint_key
from server.circuit import Circuit, Health, Tolerance
from server.disk import Disk
from server.engine.base import (
    Engine,
    EngineState,
    GenerationFailedError,
    Job,
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WorkerDiedError,
)
from server.engine.messages import Checkpointed, Progressed
from server.errors import RecordsUnavailableError
from server.events import Broker, Event, Live
from server.generations import Generation, Status
from server.retention import Retention
from server.store import StaleAttemptError, Store

log = logging.getLogger("paddock.dispatcher")

# an estimate from less than this much of a generation is a guess
_ETA_FROM = 0.04
_BACKOFF_SECONDS = 2.0
_WATCH_SECONDS = 2.0
# no encoder is silent for as long
_LONG_DEAD_SECONDS = 3600.0
# between batches of what is removed, so that it hinders nobody
_CATCH_UP_SECONDS = 0.1


class Deployment(StrEnum):
    """Where a model is between disk and device, in the host's words."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    DEPLOYING = "deploying"
    DEACTIVATING = "deactivating"
    ERROR = "error"


@dataclass
class _Running:
    """The generation a lane holds, as far as it is: `saved` (0 … 1) of it is in its checkpoint."""

    held: Generation
    live: Live = field(init=False)
    saved: float = field(init=False)
    fingerprint: dict[str, str] | None = None
    is_cancelled: bool = False
    end: Callable[[], Awaitable[Generation]] | None = None
    """Writes down what became of it, once that is known."""

    def __post_init__(self) -> None:
        self.saved = self.held.progress
        self.live = Live(progress=self.saved)

    def advance(self, report: Progressed) -> None:
        eta = None
        if report.fraction >= _ETA_FROM:
            eta = report.seconds * (1 - report.fraction) / report.fraction
        self.live = Live(report.fraction, eta, report.stage, report.step, report.steps)
        # a generation that starts over has left its checkpoint aside
        self.saved = min(self.saved, report.fraction)

    async def settle(self, end: Callable[[], Awaitable[Generation]]) -> Generation:
        """Write down what became of it: now, or when its lane gives it back, if the records cannot be written now."""
        self.end = end
        return await end()


class Lane:
    """One device: it carries out wishes to load or unload, and else whatever is next in the queue."""

    def __init__(self, engine: Engine, dispatcher: "Dispatcher") -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        who = (dispatcher.store.server or "", socket.gethostname(), os.getpid(), uuid4().hex[:8], engine.state.device)
        self._owner = "/".join(map(str, who))
        self._wishes: deque[tuple[Deployment, CatalogueEntry]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.running: _Running | None = None
        self.circuit = Circuit(dispatcher.tolerance)
        self.failures: dict[str, str] = {}

    @property
    def state(self) -> EngineState:
        """What the device holds."""
        return self._engine.state

    @property
    def holding(self) -> str | None:
        """The model the device will hold when it next takes a generation, unless something goes wrong."""
        model = self.running.held.model if self.running is not None else self.state.model_id
        for target, entry in self._wishes:
            if target is Deployment.ACTIVE:
                model = entry.id
            elif model == entry.id:
                model = None
        return model

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """Look again whether there is something to do."""
        self._wake.set()

    def wish(self, target: Deployment, entry: CatalogueEntry) -> None:
        """Have a model loaded (ACTIVE) or unloaded (INACTIVE), before the next generation."""
        self._wishes.append((target, entry))
        self.wake()

    def deployment(self, model_id: str) -> Deployment | None:
        """Where a model is on this lane; None when nothing is to be said of it."""
        state = self.state
        wishes = [target for target, entry in self._wishes if entry.id == model_id]
        if Deployment.ACTIVE in wishes:
            return Deployment.DEPLOYING
        if state.model_id == model_id:
            if Deployment.INACTIVE in wishes:
                return Deployment.DEACTIVATING
            return Deployment.ACTIVE if state.is_ready else Deployment.DEPLOYING
        return Deployment.ERROR if model_id in self.failures else None

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation if this lane runs it. It is free again when the worker has stopped, not before."""
        if self.running is not None and self.running.held.id == generation.id:
            self.running.is_cancelled = True
            await self._engine.cancel(generation.id, generation.attempt)

    async def suspend(self, grace: float) -> None:
        """Take nothing more, and have what runs saved and given back; wait for it `grace` seconds at most.

        A load is not waited for: nothing of it would be left.
        """
        self._is_stopping = True
        self.wake()
        if self._task is None or self.state.loading is not None:
            return
        if self.running is not None:
            await self._engine.suspend(self.running.held.id, self.running.held.attempt)
        await asyncio.wait({self._task}, timeout=grace)

    async def stop(self) -> None:
        """Stop working: end the worker, then give back what it was doing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._engine.close()
        if self.running is not None:
            await self._dispatcher.give_back(self.running)
            self.running = None

    async def _work(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                if self._wishes:
                    await self._grant()
                elif self.running is not None:
                    # the records could not be written before: what was held is still ours to give back
                    await self._dispatcher.give_back(self.running)
                    self.running = None
                elif (wait := self.circuit.wait) > 0:
                    await self._pause(wait)
                elif (held := await self._claim()) is not None:
                    await self._carry_out(held)
                else:
                    await self._rest()
            except RecordsUnavailableError:
                # the store has told the log
                await asyncio.sleep(_BACKOFF_SECONDS)
            except Exception:
                # a fault of ours: a lane that ended would serve nobody
                log.exception("%s met a fault; going on in %g s", self.state.device, _BACKOFF_SECONDS)
                await asyncio.sleep(_BACKOFF_SECONDS)

    async def _rest(self) -> None:
        """Wait for something to do. The card is its owner's too: after a while of nothing it is freed, wholly."""
        patience = self._dispatcher.idle_unload if self.state.model_id is not None else 0
        try:
            async with asyncio.timeout(patience or None):
                await self._wake.wait()
        except TimeoutError:
            log.info("%s had nothing to do for %g s and is freed", self.state.device, patience)
            # the worker's end, since a CUDA context holds memory even without weights
            await self._engine.close()

    async def _pause(self, seconds: float) -> None:
        """Leave a device that failed alone for so long; wishes are heard meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _note_failure(self, about: str, why: str) -> None:
        self.circuit.failed(about, why)
        if self.circuit.health is Health.UNHEALTHY:
            log.error("%s is unhealthy and is tried again in %g s: %s", self.state.device, self.circuit.wait, why)

    async def _claim(self) -> Generation | None:
        claiming = asyncio.ensure_future(self._dispatcher.claim(self._owner, self.holding))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # the store's thread goes on to commit: what it claims is ours to give back
            if (held := await claiming) is not None:
                self.running = _Running(held)
            raise

    async def _grant(self) -> None:
        """Carry out the oldest wish, which counts as waiting until it is done or has failed."""
        target, entry = self._wishes[0]
        try:
            if target is Deployment.ACTIVE:
                with suppress(LoadFailedError):
                    await self._load(entry.variant())
            elif self.state.model_id == entry.id:
                await self._engine.unload()
        except WorkerDiedError as error:
            self._note_failure(entry.id, str(error))
        finally:
            self._wishes.popleft()

    async def _load(self, entry: CatalogueEntry) -> dict[str, str]:
        self.failures.pop(entry.id, None)
        try:
            return (await self._engine.load(entry)).fingerprint
        except (LoadFailedError, WorkerDiedError) as error:
            log.warning("loading %s on %s: %s", entry.id, self.state.device, error)
            self.failures[entry.id] = str(error)
            raise

    async def _carry_out(self, held: Generation) -> None:
        self.running = running = _Running(held)
        renewal = asyncio.create_task(self._dispatcher.keep(running))
        try:
            self._dispatcher.announce_progress(running)
            settled = await self._attempt(running)
        except StaleAttemptError:
            # cancelled meanwhile: a late result is nobody's
            self._dispatcher.discard(running)
        else:
            log.info("generation %s attempt %d: %s", held.id, held.attempt, settled.status)
            if settled.status is Status.SUCCEEDED:
                self.circuit.succeeded()
            self._dispatcher.announce(settled)
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
        self.running = None

    async def _attempt(self, running: _Running) -> Generation:
        """Load, run and record; returns the generation as recorded, raises StaleAttemptError if it is not ours."""
        held, dispatcher = running.held, self._dispatcher
        entry = dispatcher.catalogue.get(held.model)
        if entry is None:
            return await running.settle(partial(dispatcher.store.fail, held, f"Model not found: {held.model}"))
        assert held.params is not None, "a generation without valid parameters is never queued"
        try:
            self._check(running)
            running.fingerprint = await self._load(entry.variant(held.params.run_fast))
            await dispatcher.renew(running)
            self._check(running)
            job = Job(held.id, held.attempt, held.params, artifact_key(held.id, held.attempt), checkpoint_key(held.id))
            done = await self._engine.run(job, lambda report: dispatcher.on_report(running, report))
        except (LoadFailedError, GenerationFailedError) as error:
            return await running.settle(partial(dispatcher.store.fail, held, str(error)))
        except RunCancelledError as error:
            raise StaleAttemptError(held.id) from error
        except RunSuspendedError:
            return await running.settle(partial(dispatcher.store.release, held, running.saved))
        except WorkerDiedError as error:
            log.warning("the worker died on generation %s attempt %d: %s", held.id, held.attempt, error)
            if not running.is_cancelled:
                # killed for not stopping in time, it may only have been in the middle of a long step
                self._note_failure(held.id, str(error))
            return await running.settle(partial(dispatcher.after_worker_death, running, str(error)))
        except (StaleAttemptError, RecordsUnavailableError, SQLAlchemyError):
            raise
        except Exception:
            # a fault of ours must neither stop the lane nor come back for ever with the same generation
            log.exception("generation %s attempt %d met an unexpected fault", held.id, held.attempt)
            sentence = "The server failed on this generation. Its log says more."
            return await running.settle(partial(dispatcher.store.fail, held, sentence))
        return await running.settle(partial(dispatcher.store.succeed, held, done.artifact, done.fingerprint))

    def _check(self, running: _Running) -> None:
        """Raise if it is not to be run: the engine, not running yet, has not heard of what was asked meanwhile."""
        if running.is_cancelled:
            raise StaleAttemptError(running.held.id)
        if self._is_stopping:
            raise RunSuspendedError("the server is stopping")


class Dispatcher:
    """All lanes, and what they share."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        checkpoints: Checkpoints,
        broker: Broker,
        catalogue: Mapping[str, CatalogueEntry],
        engines: Sequence[Engine],
        disk: Disk,
        retention: Retention,
        lease: float,
        idle_unload: float = 0,
        tolerance: Tolerance | None = None,
    ) -> None:
        self.store = store
        self.tolerance = tolerance or Tolerance()
        self.idle_unload = idle_unload
        self.catalogue = catalogue
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._broker = broker
        self._disk = disk
        self._retention = retention
        self._lease = lease
        self._waits_for_room = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.lanes = [Lane(engine, self) for engine in engines]

    # life

    async def start(self) -> None:
        """Settle what this server left before, then set the lanes to work. Call with the data directory locked."""
        await self.store.expire_leases()
        for generation in await self.store.abandoned():
            await self._settle(generation)
        if dropped := await self.store.cancel_waiting_sync():
            log.info("%d synchronous generations whose clients are gone were cancelled", dropped)
        # other servers' workers may write to the same folder
        self._artifacts.sweep(untouched=_LONG_DEAD_SECONDS if self.store.is_shared else 0)
        self._checkpoints.sweep()
        for lane in self.lanes:
            lane.start()
        self._tasks = [asyncio.create_task(self._take_care()), asyncio.create_task(self._await_room())]
        if self.store.is_shared:
            self._tasks.append(asyncio.create_task(self._watch()))

    async def suspend(self, grace: float) -> None:
        """Begin nothing more, and have what runs saved and returned to the queue, within `grace` seconds."""
        await asyncio.gather(*(lane.suspend(grace) for lane in self.lanes))

    async def stop(self) -> None:
        """Stop all lanes at once; what was running returns to the queue."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*(lane.stop() for lane in self.lanes), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                log.error("a lane did not stop cleanly", exc_info=error)

    async def _take_care(self) -> None:
        """Remove what is to be kept no longer, then look after leases that ran out although no server died."""
        while True:
            try:
                for id_ in await self.store.ended(self._checkpoints.kept()):
                    self._checkpoints.discard(id_)
                is_behind = await self._retention.tidy()
                await asyncio.sleep(_CATCH_UP_SECONDS if is_behind else self._lease)
                for generation in await self.store.abandoned():
                    if not self._is_held(generation):
                        await self._settle(generation)
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
            await self._waits_for_room.wait()
            if await self._disk.shortage() is None:
                self._waits_for_room.clear()
                self.wake()
            else:
                await asyncio.sleep(_BACKOFF_SECONDS)

    async def _watch(self) -> None:
        """Wake the lanes for what other servers have queued, given back or lost."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                if await self.store.queued():
                    self.wake()
            except (RecordsUnavailableError, SQLAlchemyError) as error:
                log.warning("the queue cannot be looked at: %s", error)

    def _is_held(self, generation: Generation) -> bool:
        return any(lane.running is not None and lane.running.held.id == generation.id for lane in self.lanes)

    def wake(self) -> None:
        """Tell the lanes that something was queued."""
        for lane in self.lanes:
            lane.wake()

    # what the service asks

    def live(self, generation: Generation) -> Live | None:
        """How a generation is doing, if an attempt at it runs that still counts."""
        if generation.status is not Status.PROCESSING:
            return None
        for lane in self.lanes:
            if lane.running is not None and lane.running.held.id == generation.id:
                return lane.running.live if lane.running.held.attempt == generation.attempt else None
        return None

    @property
    def holding(self) -> list[str | None]:
        """The model each device will hold when it next takes a generation: what the order of the queue depends on."""
        return [lane.holding for lane in self.lanes]

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation, cancelled while it was as given, wherever it runs; keep nothing of one that waited."""
        if generation.status is Status.QUEUED:
            self._checkpoints.discard(generation.id)
        for lane in self.lanes:
            await lane.cancel(generation)

    def deployment(self, model_id: str) -> Deployment:
        """Where a model is: the most that any lane has of it."""
        found = {lane.deployment(model_id) for lane in self.lanes}
        order = (Deployment.ACTIVE, Deployment.DEPLOYING, Deployment.DEACTIVATING, Deployment.ERROR)
        return next((status for status in order if status in found), Deployment.INACTIVE)

    def activate(self, entry: CatalogueEntry) -> None:
        """Have a model loaded on some lane."""
        if self.deployment(entry.id) not in (Deployment.ACTIVE, Deployment.DEPLOYING):
            # an idle device first, and of those an empty one: the others' models may be wanted again
            best = min(
                self.lanes,
                key=lambda lane: (lane.circuit.wait > 0, lane.running is not None, lane.holding is not None),
            )
            best.wish(Deployment.ACTIVE, entry)

    def deactivate(self, entry: CatalogueEntry) -> None:
        """Have a model unloaded wherever it is, after what runs with it."""
        for lane in self.lanes:
            lane.failures.pop(entry.id, None)
            if lane.deployment(entry.id) in (Deployment.ACTIVE, Deployment.DEPLOYING):
                lane.wish(Deployment.INACTIVE, entry)

    # what the lanes ask

    async def claim(self, owner: str, holding: str | None) -> Generation | None:
        """The next generation for a device that holds this model, claimed; none while its video may find no room."""
        if await self._disk.shortage() is not None:
            self._waits_for_room.set()
            return None
        return await self.store.claim(owner, self._lease, holding)

    async def renew(self, running: _Running) -> None:
        """Hold a claim on, and write down how far it is."""
        await self.store.renew(running.held, self._lease, running.live.progress, running.fingerprint)

    async def keep(self, running: _Running) -> None:
        """Hold a claim on for as long as this runs."""
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self.renew(running)
            except RecordsUnavailableError:
                log.warning("the claim on generation %s was not renewed; trying again", running.held.id)
            except SQLAlchemyError:
                log.exception("the claim on generation %s was not renewed; trying again", running.held.id)
            except StaleAttemptError:
                if not running.is_cancelled:
                    # another server cancelled it, or took it over: the device has better things to do
                    await self.cancel(running.held)
                return

    def on_report(self, running: _Running, report: Progressed | Checkpointed) -> None:
        """Note how far a worker is, or what of it is saved, and tell subscribers."""
        if isinstance(report, Checkpointed):
            running.saved = report.fraction
        else:
            running.advance(report)
            self.announce_progress(running)

    def announce_progress(self, running: _Running) -> None:
        """Tell subscribers how a generation is doing, unless it is cancelled already."""
        if not running.is_cancelled:
            self._broker.publish(Event(running.held, running.live))

    def announce(self, generation: Generation) -> None:
        """Tell subscribers what became of a generation; one that is over needs no checkpoint any more."""
        if generation.is_terminal:
            self._checkpoints.discard(generation.id)
            self._broker.publish(Event(generation))
        else:
            self.wake()

    async def after_worker_death(self, running: _Running, why: str) -> Generation:
        """Adopt a file finished just before the death; else another try, or the end of them by the rule."""
        held = running.held
        adopted = await self._adopt(held)
        if adopted is None:
            self._artifacts.discard(artifact_key(held.id, held.attempt))
        return adopted or await self.store.worker_died(held, running.live.progress, why, running.saved)

    async def give_back(self, running: _Running) -> None:
        """Record what became of a generation; if that is not known, return it to the queue."""
        with suppress(StaleAttemptError):
            if running.end is not None:
                self.announce(await running.end())
            else:
                self.announce(await self._adopt(running.held) or await self.store.release(running.held, running.saved))

    def discard(self, running: _Running) -> None:
        """Remove what an attempt that counts no more has written; its checkpoint may be another attempt's by now."""
        held = running.held
        self._artifacts.discard(artifact_key(held.id, held.attempt))
        if running.is_cancelled:
            self._checkpoints.discard(held.id)

    async def _settle(self, abandoned: Generation) -> None:
        # another server may be first
        with suppress(StaleAttemptError):
            if await self._adopt(abandoned) is None:
                await self.store.requeue_abandoned(abandoned)

    async def _adopt(self, held: Generation) -> Generation | None:
        key = self._artifacts.finished(held)
        if key is None:
            return None
        log.info("generation %s: its finished file was found and adopted", held.id)
        return await self.store.succeed(held, key)
