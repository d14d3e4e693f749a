"""An engine whose worker is a child process on this machine, reached over a socket pair."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from pipelines.models.catalogue import CatalogueEntry
from server.core.durations import Durations, RunTimer
from server.engine.interface import (
    DeviceUnavailableError,
    EngineState,
    Finish,
    GenerationFailedError,
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WeightsMissingError,
    WorkerDiedError,
    WorkerOptions,
    WorkerStartError,
)
from server.engine.protocol import (
    VERSION,
    Attempt,
    Cancel,
    Cancelled,
    Checkpointed,
    Done,
    Failed,
    Heartbeat,
    Hello,
    Load,
    LoadFailed,
    Loading,
    Prepare,
    Previewed,
    Progressed,
    Ready,
    Rendered,
    Run,
    RunReport,
    Suspend,
    Suspended,
    Unload,
    Unloaded,
    Warned,
)
from server.engine.subprocess.connection import Connection
from server.engine.subprocess.template import WorkerTemplate
from server.engine.watchdog import AwakeClock, Patience, RunWatch, Watchdog

log = logging.getLogger("paddock.engine")

WORKER = "server.engine.worker"
"""The module of the worker process."""


class _KeptError(WeightsMissingError):
    """Weights are missing, and the worker has what it had before."""


def _load_error(failed: LoadFailed) -> LoadFailedError | DeviceUnavailableError:
    if not failed.temporary:
        return LoadFailedError(failed.message)
    if not failed.is_missing:
        return DeviceUnavailableError(failed.message)
    return (_KeptError if failed.has_kept else WeightsMissingError)(failed.message)


class SubprocessEngine:
    """One device of this machine, driven by a child process that is started when it is first needed.

    `name` is the device's name in states, logs and metrics, unique among all engines of a server; `options.device` is
    the torch device that the worker computes on. A cancelled run is killed after `cancel_grace` seconds, a worker that
    sends nothing after `silence` seconds. `worker` is the module that the child process runs, `environment` its whole
    environment if it is not the usual one; `template` forks it, if there is one. `blameless` has a sentence for each
    exit status of that process which is not held against its work.
    """

    def __init__(
        self,
        name: str,
        options: WorkerOptions,
        *,
        cancel_grace: float,
        silence: float,
        patience: Patience | None = None,
        worker: str = WORKER,
        template: WorkerTemplate | None = None,
        environment: Mapping[str, str] | None = None,
        blameless: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self._blameless = blameless
        self._name = name
        self._options = options
        self._worker = worker
        self._template = template
        self._environment = environment
        self._cancel_grace = cancel_grace
        self._silence = silence
        self._clock = AwakeClock()
        self.durations = Durations(self._clock)
        self._watchdog = Watchdog(patience or Patience(), self.durations)
        self._fingerprint: dict[str, str] = {}
        self._connection: Connection | None = None
        self._running: Attempt | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._starts = 0
        self._has_greeted = False
        self._state = self._empty()
        self._grace: asyncio.Task[None] | None = None

    @property
    def state(self) -> EngineState:
        """What the device holds now."""
        if self._connection is not None and not self._connection.is_alive:
            return replace(self._empty(), error=self._state.error)
        heartbeat = self._connection.heartbeat if self._connection else Heartbeat()
        return replace(self._state, memory=heartbeat.memory, compile_error=heartbeat.compile_error)

    async def load(self, entry: CatalogueEntry) -> Ready:
        """Load a model, in a new worker if there is none."""
        connection = await self._connect()
        before = self._state
        if self._state.model_id != entry.id:
            self._state = replace(self._state, model_id=entry.id, plan=None, loading=0.0, error=None)
        await connection.send(Load(model_id=entry.id, spec=entry.model))
        try:
            return await self._until_ready(connection, entry.id)
        except (LoadFailedError, WorkerDiedError, DeviceUnavailableError) as error:
            if isinstance(error, _KeptError) and before.is_ready:
                self._state = replace(before, error=str(error))
                raise
            self._state = replace(self._state, model_id=None, plan=None, loading=None, error=str(error))
            if isinstance(error, DeviceUnavailableError):
                self._make_room(connection)
            elif isinstance(error, WorkerDiedError) and not self._has_greeted:
                raise self._not_started(str(error)) from error
            raise

    async def _until_ready(self, connection: Connection, model_id: str) -> Ready:
        watch = self._watchdog.watch_load()
        while True:
            match await connection.next_report(self._silence, watch):
                case Hello(version=version) if version != VERSION:
                    connection.kill()
                    raise LoadFailedError(f"The worker speaks protocol {version}, the server {VERSION}.")
                case Hello():
                    self._has_greeted = True
                case Loading(fraction=fraction, model_id=about) if about == model_id:
                    self._state = replace(self._state, loading=fraction)
                    watch.note_progress()
                case Ready(model_id=about) as ready if about == model_id:
                    self._fingerprint = ready.fingerprint
                    self._state = replace(self._state, plan=ready.fingerprint.get("plan"), loading=None)
                    return ready
                case LoadFailed(model_id=about) as failed if about == model_id:
                    raise _load_error(failed)
                case _:
                    pass

    def _make_room(self, connection: Connection) -> None:
        """End a worker that can do nothing now: a CUDA context holds memory, and a failed import cannot be repeated.

        It stays while it finishes a file, which needs neither.
        """
        if not connection.is_finishing:
            connection.kill()

    def _not_started(self, reason: str) -> WorkerStartError:
        sentence = f"No worker could be started: {reason}."
        self._state = replace(self._empty(), error=sentence)
        return WorkerStartError(sentence)

    async def run(self, run: Run, on_report: Callable[[RunReport], None]) -> Finish:
        """Make a video's frames with the loaded model."""
        connection = self._connection
        if connection is None or not connection.is_alive:
            raise WorkerDiedError("it ended before the run began")
        timer = self.durations.begin(self._state.model_id or "", self._fingerprint, run.params)
        watch = self._watchdog.watch_run(timer)
        try:
            self._running = about = run.about
            self._idle.clear()
            await connection.begin(run)
            await self._until_rendered(connection, about, watch, on_report)
        except DeviceUnavailableError as error:
            if not isinstance(error, WeightsMissingError):
                self._state = replace(self._state, model_id=None, plan=None, error=str(error))
                self._make_room(connection)
            raise
        finally:
            watch.end()
            self._running = None
            self._idle.set()
        return lambda: self._finish(connection, about, timer, on_report)

    async def _finish(
        self, connection: Connection, about: Attempt, timer: RunTimer, on_report: Callable[[RunReport], None]
    ) -> Done:
        def note(report: Progressed) -> None:
            timer.note(report.progress)
            on_report(report)

        done = await connection.finish(about, self._silence, self._watchdog.watch_file(), note)
        timer.succeed(done.fingerprint)
        return done

    async def _until_rendered(
        self,
        connection: Connection,
        about: Attempt,
        watch: RunWatch,
        on_report: Callable[[RunReport], None],
    ) -> None:
        while True:
            report = await connection.next_report(self._silence, watch)
            if isinstance(report, Loading):
                watch.note_loading()
            if report.about != about:
                continue
            match report:
                case Progressed():
                    watch.note(report.progress)
                    on_report(report)
                case Checkpointed() | Previewed() | Warned():
                    on_report(report)
                case Rendered():
                    watch.note_done()
                    return
                case Failed(message=message, temporary=True, is_missing=is_missing):
                    raise WeightsMissingError(message) if is_missing else DeviceUnavailableError(message)
                case Failed(message=message):
                    raise GenerationFailedError(message)
                case Cancelled():
                    raise RunCancelledError("it was cancelled")
                case Suspended():
                    raise RunSuspendedError("it was suspended")
                case _:
                    pass

    async def prepare(self, prompts: Sequence[str]) -> None:
        """Have prompts encoded while a run goes on."""
        if self._running is not None and self._connection is not None:
            await self._connection.send(Prepare(prompts=tuple(prompts)))

    async def cancel(self, generation_id: str, attempt: int) -> None:
        """Stop a run within a step, or kill the worker after the grace time."""
        if self._running != (generation_id, attempt) or self._connection is None:
            return
        await self._connection.send(Cancel(generation_id=generation_id, attempt=attempt))
        self._grace = asyncio.create_task(self._enforce(self._connection))

    async def suspend(self, generation_id: str, attempt: int) -> None:
        """Have a run save its checkpoint and stop, within a step."""
        if self._running == (generation_id, attempt) and self._connection is not None:
            await self._connection.send(Suspend(generation_id=generation_id, attempt=attempt))

    async def _enforce(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._cancel_grace):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a cancelled generation did not stop within %g s; its worker is killed", self._cancel_grace)
            connection.kill()

    async def unload(self) -> None:
        """Unload the model. Without a live worker nothing is loaded."""
        if self._connection is None or not self._connection.is_alive:
            return
        await self._connection.send(Unload())
        watch = self._watchdog.watch_unload()
        with suppress(WorkerDiedError, DeviceUnavailableError):
            while not isinstance(await self._connection.next_report(self._silence, watch), Unloaded):
                pass
        self._state = replace(self._state, model_id=None, plan=None, loading=None)

    async def close(self) -> None:
        """End the worker, at once."""
        if self._grace is not None:
            self._grace.cancel()
        if self._connection is not None:
            try:
                await self._connection.close()
            except WorkerDiedError as error:
                log.warning("worker %s: %s", self._connection.process.pid, error)
            else:
                self._connection = None
        self._state = self._empty()

    def _empty(self) -> EngineState:
        return EngineState(device=self._name, starts=self._starts)

    async def _connect(self) -> Connection:
        if self._connection is not None and not self._connection.is_alive:
            await self._connection.close()
            self._connection = None
        if self._connection is None:
            try:
                self._connection = await Connection.open(
                    *(self._worker, self._options, self._clock, self._template, self._environment, self._blameless)
                )
            except OSError as error:
                raise self._not_started(error.strerror or type(error).__name__) from error
            self._starts += 1
            self._has_greeted = False
            self._state = replace(self._empty(), pid=self._connection.process.pid)
            log.info("worker %s started for %s", self._state.pid, self._name)
        return self._connection
