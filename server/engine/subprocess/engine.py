"""An engine whose worker is a child process on this machine, reached over a socket pair."""

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from pipelines.core.catalogue import CatalogueEntry
from server.engine.interface import (
    EngineState,
    Finish,
    GenerationFailedError,
    Job,
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WorkerDiedError,
    WorkerOptions,
    WorkerStuckError,
)
from server.engine.protocol import (
    MAX_LINE_BYTES,
    REPORT,
    VERSION,
    Attempt,
    Cancel,
    Cancelled,
    Checkpointed,
    DeviceFailed,
    DeviceMemory,
    Done,
    Failed,
    Heartbeat,
    Hello,
    Load,
    LoadFailed,
    Loading,
    Order,
    Prepare,
    Previewed,
    Progressed,
    Ready,
    Rendered,
    Report,
    Run,
    RunReport,
    Suspend,
    Suspended,
    Unload,
    Unloaded,
)
from server.engine.watchdog import TICK, AwakeClock, Patience, RunWatch, Watch, Watchdog

log = logging.getLogger("paddock.engine")

WORKER = "server.engine.worker.worker"

_Inbox = asyncio.Queue[Report | None]
"""Reports as they come; None when there will be no more."""

_MAX_UNREAD = 16
"""Reports that wait to be looked at. A worker that has sent more waits, so that it cannot fill the server's memory."""

_EXIT_SECONDS = 2.0
_END_SECONDS = 20.0
"""How long a killed process may take to end: gigabytes on a card are let go of first, and a driver may be stuck."""


ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""For glibc on a processor: keep the memory of large tensors for the next layer's. Given back and asked for anew each
time, its pages cost an eighth of a large video (`python -m benchmarks.cpu.allocator`). The environment's own values go
first."""

CARD_ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""For torch on a card: memory that grows where it lies leaves few holes. Without it a plan that fits 12 GB ran out of
them on its first step, with a tenth of its memory in holes (docs/speed.md)."""

WAITING = {"OMP_WAIT_POLICY": "passive"}
"""For OpenMP on more than FEW_PROCESSORS: threads that wait sleep. They spin otherwise, and where one of as many
threads as there are processors has to share its own, all others wait for it (`python -m benchmarks.cpu.waiting`)."""

FEW_PROCESSORS = 2
"""On so few it is rarely another thread that is waited for, and to wake one costs more than it saves."""


def environment(device: str, processors: int | None) -> dict[str, str]:
    """What a worker's environment has besides the server's, whose own values go first."""
    if device != "cpu":
        return CARD_ALLOCATOR
    return ALLOCATOR | (WAITING if processors is not None and processors > FEW_PROCESSORS else {})


class _Connection:
    """One live worker process and the socket to it."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: AwakeClock
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._reports: _Inbox = asyncio.Queue(_MAX_UNREAD)
        self._files: dict[Attempt, _Inbox] = {}
        self._running: Attempt | None = None
        self._clock = clock
        self._last_heard = clock()
        self.memory: DeviceMemory | None = None
        self._fault: str | None = None
        self._is_killed = False
        self._pump = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, options: WorkerOptions, clock: AwakeClock) -> "_Connection":
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", WORKER, str(theirs.fileno())),
                    options.model_dump_json(),
                    env={**environment(options.device, os.cpu_count()), **os.environ},
                    stdin=DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C is for the server, which then ends the worker
                    start_new_session=True,
                )
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        except BaseException:
            ours.close()
            raise
        return cls(process, reader, writer, clock)

    async def _read(self) -> None:
        """Read on even when nobody asks, so that an idle worker's heartbeats never fill the socket."""
        try:
            async for line in self._reader:
                self._last_heard = self._clock()
                if not line.endswith(b"\n"):
                    # it died in the middle of a word
                    break
                report = REPORT.validate_json(line)
                if isinstance(report, Heartbeat):
                    self.memory = report.memory
                else:
                    await self._inbox(report).put(report)
        except OSError as error:
            # how the system tells that it died with orders unread
            log.info("the connection to worker %s ended: %s", self.process.pid, error)
        except ValueError:
            log.exception("worker %s cannot be understood", self.process.pid)
            self._fault = "it sent what is no report and was killed"
            self.kill()
        finally:
            for inbox in (self._reports, *self._files.values()):
                # without room there is more to be read before anyone needs to know
                with suppress(asyncio.QueueFull):
                    inbox.put_nowait(None)

    def _inbox(self, report: Report) -> _Inbox:
        """Where a report goes: what is said of a file has a reader of its own, since another run may be going on."""
        if isinstance(report, Rendered) and report.about == self._running:
            self._files.setdefault(report.about, asyncio.Queue(_MAX_UNREAD))
            return self._reports
        return self._reports if report.about is None else self._files.get(report.about, self._reports)

    async def begin(self, run: Run) -> None:
        """Send the order to make a video."""
        self._running = run.about
        self._files.pop(run.about, None)
        await self.send(run)

    async def finish(
        self, about: Attempt, silence: float, watch: Watch, on_report: Callable[[RunReport], None]
    ) -> Done:
        """Wait for the file of a video that was rendered here."""
        inbox = self._files[about]
        try:
            while True:
                match await self.next_report(silence, watch, inbox):
                    case Progressed() as progress:
                        on_report(progress)
                    case Done() as done:
                        return done
                    case Failed(message=message):
                        raise GenerationFailedError(message)
                    case _:
                        pass
        finally:
            del self._files[about]

    async def send(self, order: Order) -> None:
        """Send one order; to a dead worker it does nothing, as its end will be reported."""
        # RuntimeError: uvloop's word for a transport that is closed already
        with suppress(ConnectionError, RuntimeError):
            self._writer.write(order.line())
            await self._writer.drain()

    async def next_report(self, silence: float, watch: Watch, inbox: _Inbox | None = None) -> Report:
        """The next report in an inbox, usually the one for all but files; raises WorkerDiedError when none will come.

        It is killed for `silence` seconds without a word, and when the watch says that it makes no progress.
        """
        while True:
            # what came last has been looked at by now, and may have been the progress that was waited for
            stuck, silent = watch.overdue(), self._clock() - self._last_heard > silence
            if stuck is not None or silent:
                self.kill()
            if silent:
                raise WorkerDiedError(f"it said nothing for {silence:g} seconds and was killed")
            if stuck is not None:
                raise WorkerStuckError(stuck)
            report = await self._wait(inbox or self._reports)
            if isinstance(report, DeviceFailed):
                self.kill()
                raise WorkerDiedError(report.message)
            if report is not None:
                return report

    async def _wait(self, inbox: _Inbox) -> Report | None:
        """A report, or None when none came for a moment; raises WorkerDiedError when it was the last."""
        try:
            async with asyncio.timeout(TICK):
                report = await inbox.get()
        except TimeoutError:
            if not self._pump.done():
                return None
            report = None if inbox.empty() else inbox.get_nowait()
        if report is None:
            raise WorkerDiedError(await self._how_it_ended())
        return report

    async def _how_it_ended(self) -> str:
        if self._fault is None:
            # a signal to a process that is just ending would take its status from whoever waits for it
            with suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_SECONDS):
                    await self.process.wait()
        self.kill()
        status = await self._end()
        if self._fault is not None:
            return self._fault
        if status < 0:
            return f"it was killed by {signal.Signals(-status).name}"
        return f"it exited with status {status}"

    async def _end(self) -> int:
        """Wait for a killed process; returns its exit status, or raises WorkerDiedError when it does not end."""
        try:
            async with asyncio.timeout(_END_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            raise WorkerDiedError("its process was killed and does not end: the device's driver holds it") from None

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._is_killed = True
        with suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """End the process and let go of the socket; raises WorkerDiedError when the process does not end."""
        self.kill()
        await self._end()
        # it may wait for room that nobody makes any more
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    @property
    def is_alive(self) -> bool:
        return not self._is_killed and self.process.returncode is None and not self._pump.done()


class LocalEngine:
    """One device of this machine, driven by a child process that is started on the first need."""

    def __init__(
        self, options: WorkerOptions, *, cancel_grace: float, silence: float, patience: Patience | None = None
    ) -> None:
        self._options = options
        self._cancel_grace = cancel_grace
        self._silence = silence
        self._clock = AwakeClock()
        self._watchdog = Watchdog(patience or Patience(), self._clock)
        self._fingerprint: dict[str, str] = {}
        self._connection: _Connection | None = None
        self._running: Attempt | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._starts = 0
        self._state = self._empty()
        self._grace: asyncio.Task[None] | None = None

    @property
    def state(self) -> EngineState:
        """What the device holds now."""
        if self._connection is not None and not self._connection.is_alive:
            return replace(self._empty(), error=self._state.error)
        return replace(self._state, memory=self._connection.memory if self._connection else None)

    async def load(self, entry: CatalogueEntry) -> Ready:
        """Have a model ready, in a fresh worker if there is none."""
        connection = await self._connect()
        if self._state.model_id != entry.id:
            self._state = replace(self._state, model_id=entry.id, plan=None, loading=0.0, error=None)
        await connection.send(Load(model_id=entry.id, spec=entry.model))
        try:
            return await self._until_ready(connection, entry.id)
        except (LoadFailedError, WorkerDiedError) as error:
            self._state = replace(self._state, model_id=None, plan=None, loading=None, error=str(error))
            raise

    async def _until_ready(self, connection: _Connection, model_id: str) -> Ready:
        watch = self._watchdog.watch_load()
        while True:
            match await connection.next_report(self._silence, watch):
                case Hello(version=version) if version != VERSION:
                    connection.kill()
                    raise LoadFailedError(f"The worker speaks protocol {version}, the server {VERSION}.")
                case Loading(fraction=fraction, model_id=about) if about == model_id:
                    self._state = replace(self._state, loading=fraction)
                    watch.note_progress()
                case Ready(model_id=about) as ready if about == model_id:
                    self._fingerprint = ready.fingerprint
                    self._state = replace(self._state, plan=ready.fingerprint.get("plan"), loading=None)
                    return ready
                case LoadFailed(message=message, model_id=about) if about == model_id:
                    raise LoadFailedError(message)
                case _:
                    pass

    async def run(self, job: Job, on_report: Callable[[RunReport], None]) -> Finish:
        """Make a video's frames with the loaded model."""
        connection = self._connection
        if connection is None or not connection.is_alive:
            raise WorkerDiedError("it ended before the run began")
        watch = self._watchdog.watch_run(self._fingerprint, job.params)
        try:
            self._running = about = (job.generation_id, job.attempt)
            self._idle.clear()
            await connection.begin(
                Run(
                    generation_id=job.generation_id,
                    attempt=job.attempt,
                    params=job.params,
                    artifact=job.artifact,
                    checkpoint=job.checkpoint,
                    preview=job.preview,
                )
            )
            await self._until_rendered(connection, about, watch, on_report)
        finally:
            watch.end()
            self._running = None
            self._idle.set()
        return lambda: connection.finish(about, self._silence, self._watchdog.watch_file(), on_report)

    async def _until_rendered(
        self,
        connection: _Connection,
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
                    watch.note(report)
                    on_report(report)
                case Checkpointed() | Previewed():
                    on_report(report)
                case Rendered():
                    watch.note_done()
                    return
                case Failed(message=message):
                    raise GenerationFailedError(message)
                case Cancelled():
                    raise RunCancelledError("it was cancelled")
                case Suspended():
                    raise RunSuspendedError("it was suspended")
                case _:
                    pass

    async def prepare(self, prompts: Sequence[str]) -> None:
        """Have prompts encoded beside the run that is going on."""
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

    async def _enforce(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(self._cancel_grace):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a cancelled generation did not stop within %g s: killing its worker", self._cancel_grace)
            connection.kill()

    async def unload(self) -> None:
        """Free the device; a worker that is not running holds nothing."""
        if self._connection is None or not self._connection.is_alive:
            return
        await self._connection.send(Unload())
        watch = self._watchdog.watch_unload()
        with suppress(WorkerDiedError):
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
        return EngineState(device=self._options.device, starts=self._starts)

    async def _connect(self) -> _Connection:
        if self._connection is not None and not self._connection.is_alive:
            await self._connection.close()
            self._connection = None
        if self._connection is None:
            try:
                self._connection = await _Connection.open(self._options, self._clock)
            except OSError as error:
                raise WorkerDiedError(f"it could not be started: {error}") from error
            self._starts += 1
            self._state = replace(self._empty(), pid=self._connection.process.pid)
            log.info("worker %s started for %s", self._state.pid, self._options.device)
        return self._connection
