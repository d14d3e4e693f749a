"""One device and what it does: loading and unloading as wished, else generation after generation from the queue."""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.catalogue import CatalogueEntry
from pipelines.core.progress import GenerationStats
from pipelines.core.request import VideoParams
from server.core.circuit_breaker import CircuitBreaker, Health, Tolerance
from server.core.errors import RecordsUnavailableError
from server.core.estimator import Estimator
from server.core.generation import Generation, Status
from server.core.logging import ids
from server.engine.interface import (
    Engine,
    EngineState,
    Finish,
    GenerationFailedError,
    Job,
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WorkerDiedError,
    WorkerStuckError,
)
from server.engine.protocol import Done, RunReport
from server.scheduler.claims import Claims, RunningAttempt
from server.scheduler.prefetch import PromptPrefetcher
from server.storage.db.records import StaleAttemptError
from server.storage.files.checkpoints import checkpoint_key
from server.storage.files.previews import preview_key
from server.storage.files.videos import artifact_key

log = logging.getLogger("paddock.scheduler")

BACKOFF_SECONDS = 2.0


class Deployment(StrEnum):
    """Where a model is between disk and device, in the host's words."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    DEPLOYING = "deploying"
    DEACTIVATING = "deactivating"
    ERROR = "error"


class DeviceExecutor:
    """One device: it carries out wishes to load or unload, and else whatever is next in the queue."""

    def __init__(
        self,
        engine: Engine,
        claims: Claims,
        catalogue: Mapping[str, CatalogueEntry],
        idle_unload: float,
        tolerance: Tolerance,
    ) -> None:
        self._engine = engine
        self._claims = claims
        self._catalogue = catalogue
        self._idle_unload = idle_unload
        who = (claims.attempts.server or "", socket.gethostname(), os.getpid(), uuid4().hex[:8], engine.state.device)
        self._owner = "/".join(map(str, who))
        self._wishes: deque[tuple[Deployment, CatalogueEntry]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.estimator = Estimator()
        self.running: RunningAttempt | None = None
        self.finishing: RunningAttempt | None = None
        """What was made here but for the end of its file, while the device makes the next."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._has_no_file = asyncio.Event()
        self._has_no_file.set()
        self._prefetcher = PromptPrefetcher(claims.attempts, engine)
        self.circuit = CircuitBreaker(tolerance)
        self.failures: dict[str, str] = {}
        self.stats = GenerationStats()
        """Of all videos made here since the start."""

    @property
    def state(self) -> EngineState:
        """What the device holds."""
        return self._engine.state

    @property
    def held(self) -> list[RunningAttempt]:
        """What it has taken from the queue and not seen to its end."""
        return [each for each in (self.running, self.finishing) if each is not None]

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

    @property
    def free_in(self) -> float | None:
        """Seconds until what runs is done, 0 if nothing does; None if nobody can tell."""
        return 0.0 if self.running is None else self.running.left

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """Look again whether there is something to do."""
        self._prefetcher.note_news()
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
        """Stop a generation if this lane holds it. It is free again when the worker has stopped, not before."""
        for running in self.held:
            if running.held.id == generation.id:
                running.is_cancelled = True
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
        tasks = [*self._attempts, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        await self._engine.close()
        ended = await asyncio.gather(*map(self._claims.give_back, self.held), return_exceptions=True)
        self.running = self.finishing = None
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def _work(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                if self._wishes:
                    await self._grant()
                elif (wait := self.circuit.wait) > 0:
                    await self._pause(wait)
                elif (held := await self._claim()) is not None:
                    await self._carry_out(held)
                else:
                    await self._rest()
            except RecordsUnavailableError:
                # the store has told the log
                await asyncio.sleep(BACKOFF_SECONDS)
            except Exception:
                # a fault of ours: a lane that ended would serve nobody
                log.exception("%s met a fault; going on in %g s", self.state.device, BACKOFF_SECONDS)
                await asyncio.sleep(BACKOFF_SECONDS)
        await asyncio.gather(*self._attempts)

    async def _rest(self) -> None:
        """Wait for something to do. The card is its owner's too: after a while of nothing it is freed, wholly."""
        patience = self._idle_unload if self.state.model_id is not None else 0
        try:
            async with asyncio.timeout(patience or None):
                await self._wake.wait()
        except TimeoutError:
            if self.finishing is not None:
                # by the worker
                return
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
        claiming = asyncio.ensure_future(self._claims.claim(self._owner, self.holding))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # the store's thread goes on to commit: what it claims is ours to give back
            if (held := await claiming) is not None:
                self.running = RunningAttempt(held)
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
        """See a generation through, in a task of its own; returns once the device is free."""
        self.running = running = RunningAttempt(held)
        self._prefetcher.begin()
        self._in_background(self._see_through(running))
        await running.has_left.wait()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _see_through(self, running: RunningAttempt) -> None:
        """Carry a generation out until what became of it is written down, however long that may take."""
        see_to_it = self._hold
        while True:
            try:
                await see_to_it(running)
                break
            except RecordsUnavailableError:
                # the store has told the log
                pass
            except Exception:
                log.exception("%s met a fault; going on in %g s", self.state.device, BACKOFF_SECONDS)
            await asyncio.sleep(BACKOFF_SECONDS)
            # what was held is still ours to give back
            see_to_it = self._claims.give_back
        if running is self.finishing:
            self.finishing = None
            self._has_no_file.set()
        else:
            self.running = None
        running.has_left.set()

    async def _leave_device(self, running: RunningAttempt) -> None:
        """Have the device take the next generation. There is one file at a time that is still to be finished."""
        await self._has_no_file.wait()
        self._has_no_file.clear()
        self.running, self.finishing = None, running
        running.has_left.set()

    async def _hold(self, running: RunningAttempt) -> None:
        held = running.held
        renewal = asyncio.create_task(self._claims.keep(running, self.cancel))
        try:
            self._claims.announce_progress(running)
            settled = await self._attempt(running)
        except StaleAttemptError:
            # cancelled meanwhile: a late result is nobody's
            self._claims.discard(running)
        else:
            said = ids(held.id, held.attempt)
            log.info("generation %s attempt %d: %s", held.id, held.attempt, settled.status, extra=said)
            if settled.status is Status.SUCCEEDED:
                self.circuit.succeeded()
            self._claims.announce(settled)
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _attempt(self, running: RunningAttempt) -> Generation:
        """Load, run and record; returns the generation as recorded, raises StaleAttemptError if it is not ours."""
        held, claims = running.held, self._claims
        entry = self._catalogue.get(held.model)
        if entry is None:
            return await running.settle(partial(claims.attempts.fail, held, f"Model not found: {held.model}"))
        assert held.params is not None, "a generation without valid parameters is never queued"
        try:
            done = await self._make(running, entry.variant(held.params.run_fast), held.params)
        except (LoadFailedError, GenerationFailedError) as error:
            return await running.settle(partial(claims.attempts.fail, held, str(error)))
        except RunCancelledError as error:
            raise StaleAttemptError(held.id) from error
        except RunSuspendedError:
            return await running.settle(partial(claims.attempts.release, held, running.saved))
        except WorkerDiedError as error:
            said = ids(held.id, held.attempt)
            log.warning("the worker died on generation %s attempt %d: %s", held.id, held.attempt, error, extra=said)
            return await running.settle(self._after_death(running, error))
        except (StaleAttemptError, RecordsUnavailableError, SQLAlchemyError):
            raise
        except Exception:
            # a fault of ours must neither stop the lane nor come back for ever with the same generation
            said = ids(held.id, held.attempt)
            log.exception("generation %s attempt %d met an unexpected fault", held.id, held.attempt, extra=said)
            sentence = "The server failed on this generation. Its log says more."
            return await running.settle(partial(claims.attempts.fail, held, sentence))
        return await running.settle(partial(claims.attempts.succeed, held, done.artifact, done.fingerprint))

    def _after_death(self, running: RunningAttempt, error: WorkerDiedError) -> Callable[[], Awaitable[Generation]]:
        # a worker that finished a file died of what it ran beside, if anything
        is_blamed = running is self.running or self.running is None or isinstance(error, WorkerStuckError)
        if running is self.running and not running.is_cancelled:
            # killed for not stopping in time, it may only have been in the middle of a long step
            self._note_failure(running.held.id, str(error))
        return partial(self._claims.after_worker_death, running, str(error), is_blamed=is_blamed)

    async def _make(self, running: RunningAttempt, entry: CatalogueEntry, params: VideoParams) -> Done:
        """Load the model and make the video, file and all; the device is free before the file is finished."""
        try:
            self._check(running)
            running.fingerprint = await self._load(entry)
            await self._claims.renew(running)
            self._check(running)
            finish = await self._run(running, params)
            await self._leave_device(running)
            done = await finish()
        finally:
            self._claims.end_preview(running)
        self.stats += done.stats
        # another plan than the one it began by would have taken another time
        if running.forecast is not None and done.fingerprint == running.fingerprint:
            running.forecast.end()
        return done

    async def _run(self, running: RunningAttempt, params: VideoParams) -> Finish:
        def note(report: RunReport) -> None:
            self._claims.on_report(running, report)
            if running is self.running and self._prefetcher.falls_due(running.live.progress):
                self._in_background(self._prefetcher.look(running.held))

        id_, attempt = running.held.id, running.held.attempt
        job = Job(id_, attempt, params, artifact_key(id_, attempt), checkpoint_key(id_), preview_key(id_))
        running.forecast = self.estimator.begin(running.held.model, running.fingerprint or {}, params)
        return await self._engine.run(job, note)

    def _check(self, running: RunningAttempt) -> None:
        """Raise if it is not to be run: the engine, not running yet, has not heard of what was asked meanwhile."""
        if running.is_cancelled:
            raise StaleAttemptError(running.held.id)
        if self._is_stopping:
            raise RunSuspendedError("the server is stopping")
