"""The server's end of a template process, which forks workers that need not import the libraries."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from server.engine.template_protocol import (
    MAX_BYTES,
    TEMPLATE_MESSAGE,
    Exited,
    Forked,
    ForkRequest,
    Unfit,
    Warm,
    import_time_environment,
)

TEMPLATE = "server.engine.worker.template"

_START_SECONDS = 0.5
_WARM_SECONDS = 120.0
_FORK_SECONDS = 10.0

_NO_CUDA_AT_IMPORT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""torch then looks for GPUs without starting the CUDA driver, which does not survive a fork."""


class ForkedProcess:
    """A worker that a template has forked, used like an asyncio subprocess."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._has_exited = asyncio.Event()

    async def wait(self) -> int:
        """Wait for its end; returns its exit status, negative for a signal."""
        await self._has_exited.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL; raises ProcessLookupError if it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self, status: int) -> None:
        """Record its exit status, once."""
        if self.returncode is None:
            self.returncode = status
            os.close(self._pidfd)
            self._has_exited.set()


class TemplateFailedError(Exception):
    """The template cannot fork a worker; `str()` says why."""


class WorkerTemplate:
    """One template process, for all workers with the same environment. It is started when it is first needed.

    `environment` is the workers' whole environment. `shared` is the socket of a template that another process keeps;
    it is used if its libraries were imported with the same environment.
    """

    def __init__(self, environment: Mapping[str, str], shared: Path | None = None) -> None:
        self._environment = dict(environment)
        self._shared = shared
        self._process: Process | None = None
        self._connection: socket.socket | None = None
        self._warm: asyncio.Future[None] | None = None
        self._requests: deque[asyncio.Future[ForkedProcess]] = deque()
        self._workers: dict[int, ForkedProcess] = {}
        self._failure: str | None = None

    async def start(self) -> None:
        """Start the template, or connect to the shared one, without waiting until it is warm."""
        if self._warm is not None or self._failure is not None:
            return
        self._warm = asyncio.get_running_loop().create_future()
        # an end before anybody waits for it is no unhandled error
        self._warm.add_done_callback(lambda warm: warm.cancelled() or warm.exception())
        try:
            await (self._launch() if self._shared is None else self._connect(self._shared))
        except OSError as error:
            self._disconnect(f"it could not be started: {error}")

    async def start_later(self) -> None:
        """Start the template shortly after the server, so that its imports do not delay the first answers."""
        await asyncio.sleep(_START_SECONDS)
        await self.start()

    async def fork(self, module: str, options: str, worker: socket.socket) -> ForkedProcess:
        """Start a worker that runs `module` on its end of a connection; raises TemplateFailedError."""
        await self.start()
        if self._failure is not None or self._warm is None:
            raise TemplateFailedError(self._failure)
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await asyncio.shield(self._warm)
            return await self._fork(module, options, worker)
        except TimeoutError as error:
            await self.close()
            self._failure = "it did not answer in time"
            raise TemplateFailedError(self._failure) from error

    async def close(self) -> None:
        """End the template, if it is not shared, and with it all of its workers."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None
        self._disconnect("it was closed")
        self._failure = None

    async def _launch(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", TEMPLATE, str(theirs.fileno())),
                    env={**_NO_CUDA_AT_IMPORT, **self._environment},
                    stdin=DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C is for the server
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._use(ours)

    async def _connect(self, path: Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(path))
        except BaseException:
            connection.close()
            raise
        self._use(connection)

    def _use(self, connection: socket.socket) -> None:
        self._connection = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read)

    async def _fork(self, module: str, options: str, worker: socket.socket) -> ForkedProcess:
        if self._connection is None:
            raise TemplateFailedError("it has ended")
        request = ForkRequest(module=module, options=options, cwd=str(Path.cwd()), environment=self._environment)
        answer: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
        self._requests.append(answer)
        try:
            socket.send_fds(
                self._connection, [request.model_dump_json().encode()], [worker.fileno(), sys.stderr.fileno()]
            )
        except OSError as error:
            self._requests.remove(answer)
            raise TemplateFailedError(str(error)) from error
        async with asyncio.timeout(_FORK_SECONDS):
            return await answer

    def _read(self) -> None:
        """Handle one packet; the event loop calls it while there are more."""
        assert self._connection is not None
        try:
            content, descriptors, _, _ = socket.recv_fds(self._connection, MAX_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            content, descriptors = b"", []
        if not content:
            self._disconnect("it ended")
            return
        match TEMPLATE_MESSAGE.validate_json(content):
            case Warm(environment=theirs):
                self._note_warm(theirs)
            case Unfit(reason=reason):
                self._fail(reason)
            case Forked(pid=pid):
                self._note_forked(ForkedProcess(pid, descriptors[0]))
            case Exited(pid=pid, status=status):
                self._workers.pop(pid).end(status)

    def _note_warm(self, theirs: Mapping[str, str]) -> None:
        if self._shared is not None and theirs != import_time_environment(self._environment):
            self._fail("its libraries were imported with another environment")
        elif self._warm is not None and not self._warm.done():
            self._warm.set_result(None)

    def _note_forked(self, worker: ForkedProcess) -> None:
        self._workers[worker.pid] = worker
        answer = self._requests.popleft()
        if answer.done():
            # its caller has given up
            worker.kill()
        else:
            answer.set_result(worker)

    def _fail(self, why: str) -> None:
        """Do without a template from now on."""
        self._failure = why
        self._disconnect(why)

    def _disconnect(self, why: str) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self._connection = None
        warm, self._warm = self._warm, None
        if warm is not None and not warm.done():
            # a template that ends before it is warm would do so again
            self._failure = why
            warm.set_exception(TemplateFailedError(why))
        while self._requests:
            if not (answer := self._requests.popleft()).done():
                answer.set_exception(TemplateFailedError(why))
        # they end with it
        for worker in self._workers.values():
            worker.end(-signal.SIGKILL)
        self._workers.clear()
