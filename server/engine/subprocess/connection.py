"""One live worker process and the socket to it."""

import asyncio
import logging
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Protocol

from pipelines.core.processes import leave_deleted_folder
from server.engine.interface import (
    DeviceTakenError,
    DeviceUnavailableError,
    EngineError,
    GenerationFailedError,
    WorkerDiedError,
    WorkerOptions,
    WorkerStuckError,
)
from server.engine.protocol import (
    MAX_LINE_BYTES,
    REPORT,
    Attempt,
    DeviceFailed,
    Done,
    Failed,
    Heartbeat,
    HostLost,
    Order,
    Progressed,
    Rendered,
    Report,
    Run,
    WorkerEnded,
)
from server.engine.subprocess.environment import worker_environment
from server.engine.subprocess.template import TemplateFailedError, WorkerTemplate
from server.engine.watchdog import TICK, AwakeClock, Watch

log = logging.getLogger("paddock.engine")

_Inbox = asyncio.Queue[Report | None]
"""Reports in the order of arrival; None after the last one."""

_MAX_UNREAD = 16
"""So many reports may wait to be read. A worker that sends more has to wait, and cannot fill the server's memory."""

_EXIT_SECONDS = 2.0
_END_SECONDS = 20.0
"""How long a killed process may take to end: it frees gigabytes of GPU memory first, and a driver may be stuck."""


class WorkerProcess(Protocol):
    """What a connection needs of its process; asyncio's subprocesses have it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    async def wait(self) -> int:
        """Wait for its end; returns its exit status."""

    def kill(self) -> None:
        """Send SIGKILL; raises ProcessLookupError if it has ended."""


async def start_worker(
    worker: str,
    options: WorkerOptions,
    theirs: socket.socket,
    template: WorkerTemplate | None = None,
    environment: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
) -> WorkerProcess:
    """Start a process that runs the module `worker` on an end of a socket pair; raises OSError.

    `environment` is the process's whole environment, by default the usual one of a worker; `inherited` are further
    descriptors that it keeps open. Both are for a process without a template.
    """
    leave_deleted_folder()
    if template is not None:
        try:
            return await template.fork(worker, options.model_dump_json(), theirs)
        except TemplateFailedError as error:
            log.info("the worker is started without a template: %s", error)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", worker, str(theirs.fileno())),
        options.model_dump_json(),
        env=worker_environment(options.device) if environment is None else environment,
        stdin=DEVNULL,
        pass_fds=[theirs.fileno(), *inherited],
        # Ctrl-C is for the server, which then ends the worker
        start_new_session=True,
    )


class Connection:
    """One live worker process and the socket to it.

    `blameless` has a sentence for each exit status that is the fault of nothing that the process was doing.
    """

    def __init__(
        self,
        process: WorkerProcess,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        clock: AwakeClock,
        blameless: Mapping[int, str],
    ) -> None:
        self._blameless = blameless
        self.process = process
        self._reader = reader
        self._writer = writer
        self._reports: _Inbox = asyncio.Queue(_MAX_UNREAD)
        self._files: dict[Attempt, _Inbox] = {}
        self._running: Attempt | None = None
        self._clock = clock
        self._last_heard = clock()
        self.heartbeat = Heartbeat()
        """The last one."""
        self._fault: str | None = None
        self._end_reported: EngineError | None = None
        self._is_killed = False
        self._pump = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls,
        worker: str,
        options: WorkerOptions,
        clock: AwakeClock,
        template: WorkerTemplate | None = None,
        environment: Mapping[str, str] | None = None,
        blameless: Mapping[int, str] = MappingProxyType({}),
    ) -> "Connection":
        """Start a process that runs the module `worker`, by a template if there is one that can.

        Raises OSError if it cannot be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await start_worker(worker, options, theirs, template, environment)
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        except BaseException:
            ours.close()
            raise
        return cls(process, reader, writer, clock, blameless)

    async def _read(self) -> None:
        """Read all the time, even if no report is waited for: an idle worker's heartbeats must not fill the socket."""
        try:
            async for line in self._reader:
                self._last_heard = self._clock()
                if not line.endswith(b"\n"):
                    # it died while it was sending
                    break
                report = REPORT.validate_json(line)
                if isinstance(report, Heartbeat):
                    self.heartbeat = report
                elif (end := _reported_end(report)) is not None:
                    self._end_reported = end
                    break
                else:
                    await self._inbox(report).put(report)
        except OSError as error:
            # the process died with unread orders in its socket
            log.info("the connection to worker %s ended: %s", self.process.pid, error)
        except ValueError:
            log.exception("invalid message from worker %s", self.process.pid)
            self._fault = "it sent an invalid message and was killed"
            self.kill()
        finally:
            for inbox in (self._reports, *self._files.values()):
                # a full inbox has more to be read; its reader then finds that the connection has ended
                with suppress(asyncio.QueueFull):
                    inbox.put_nowait(None)

    def _inbox(self, report: Report) -> _Inbox:
        """The inbox of a report. Reports about a file have a reader of their own, since another run may be going on."""
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
        self, about: Attempt, silence: float, watch: Watch, on_report: Callable[[Progressed], None]
    ) -> Done:
        """Wait for the file of a video that was rendered here.

        Raises GenerationFailedError, WorkerDiedError or DeviceUnavailableError.
        """
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
        """Send one order. To a dead worker nothing is sent: the reader of its reports learns of its end."""
        # RuntimeError: uvloop raises it if the transport is closed already
        with suppress(ConnectionError, RuntimeError):
            self._writer.write(order.line())
            await self._writer.drain()

    async def next_report(self, silence: float, watch: Watch, inbox: _Inbox | None = None) -> Report:
        """The next report in an inbox, by default the one for all reports but those about files.

        The worker is killed if it sends nothing for `silence` seconds, and if `watch` finds that it makes no progress.
        Raises WorkerDiedError if no report will come, WorkerStuckError if it made no progress, and
        DeviceUnavailableError if its host is lost.
        """
        while True:
            # the last report has been handled by now: it may have been progress
            stuck, silent = watch.overdue(), self._clock() - self._last_heard > silence
            if stuck is not None or silent:
                self.kill()
            if silent:
                raise WorkerDiedError(f"it sent nothing for {silence:g} seconds and was killed")
            if stuck is not None:
                raise WorkerStuckError(stuck)
            report = await self._wait(inbox or self._reports)
            if report is not None:
                return report

    async def _wait(self, inbox: _Inbox) -> Report | None:
        """A report, or None if none came within a tick; raises an EngineError after the last one."""
        try:
            async with asyncio.timeout(TICK):
                report = await inbox.get()
        except TimeoutError:
            if not self._pump.done():
                return None
            report = None if inbox.empty() else inbox.get_nowait()
        if report is None and self._end_reported is not None:
            self.kill()
            raise self._end_reported
        if report is None:
            raise await self._exit_error()
        return report

    async def _exit_error(self) -> EngineError:
        if self._fault is None:
            # let a process that is just ending do so: a kill would replace its exit status
            with suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_SECONDS):
                    await self.process.wait()
        self.kill()
        status = await self._end()
        if self._fault is not None:
            return WorkerDiedError(self._fault)
        if status in self._blameless:
            return DeviceUnavailableError(self._blameless[status])
        return WorkerDiedError(described_exit(status))

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
        """End the process and close the socket; raises WorkerDiedError if the process does not end."""
        self.kill()
        await self._end()
        # it may wait for room in an inbox that is read no more
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    @property
    def is_finishing(self) -> bool:
        """Whether a file of a rendered video is waited for."""
        return bool(self._files)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, as far as is known, and its reports are being read."""
        return not self._is_killed and self.process.returncode is None and not self._pump.done()


def described_exit(status: int) -> str:
    """How a process ended, by its exit status, which is negative for a signal: the end of a sentence."""
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it exited with status {status}"


def _reported_end(report: Report) -> EngineError | None:
    """The error for the last report of a worker, None for any other report."""
    match report:
        case DeviceFailed(message=message) | WorkerEnded(message=message):
            return WorkerDiedError(message)
        case HostLost(message=message, is_taken=is_taken):
            return DeviceTakenError(message) if is_taken else DeviceUnavailableError(message)
    return None
