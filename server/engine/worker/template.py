"""A process that has imported the libraries and forks workers: `python -P -m server.engine.worker.template FD`.

Importing torch and diffusers takes seconds; a forked worker starts in milliseconds. FD is one end of a server's
connection (SOCK_SEQPACKET), or a listening socket, which any number of servers of the same user may connect to. A
server sends a `ForkRequest` with the worker's end of its connection and a descriptor for the log; it gets `Forked`,
with a pidfd of the worker, and `Exited`.

A worker ends with this process (PR_SET_PDEATHSIG), and this process kills the workers of a server whose connection
ends. So no worker outlives its server, whichever process dies first.

multiprocessing's forkserver would not do: there is one per process, with the environment of that process (malloc and
OpenMP read theirs when a program starts), and its children outlive it.
"""

import gc
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipelines.core.processes import die_with_parent
from server.engine.template_protocol import (
    MAX_BYTES,
    Exited,
    Forked,
    ForkRequest,
    Unfit,
    Warm,
    import_time_environment,
)
from server.engine.worker.worker import import_libraries, silence_libraries

_DEVICE_FILES = "/dev/nvidia"


def unfit_to_fork() -> str | None:
    """Why a child of this process could not compute: threads are not copied by a fork, and CUDA does not survive it."""
    if threads() > 1:
        return "it runs more than one thread"
    if any(name.startswith(_DEVICE_FILES) for name in open_files()):
        return "a library has opened the GPU's driver"
    return None


def threads() -> int:
    """The threads of this process, also those that libraries started."""
    return len(list(Path("/proc/self/task").iterdir()))


def open_files() -> list[str]:
    """What the descriptors of this process stand for."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # the one by which they are listed is closed already
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return found


class Template:
    """Forks workers for the servers that are connected, and reports their exits.

    `end` is a server's connection or a listening socket, `environment` what the libraries read when they were imported,
    `failure` why no worker can be forked, if so.
    """

    def __init__(self, end: socket.socket, environment: Mapping[str, str], failure: str | None = None) -> None:
        self._environment = dict(environment)
        self._failure = failure
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, tuple[int, socket.socket]] = {}
        """The workers by their pidfd: their process id, and the connection of their server."""
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._watch(end.fileno(), lambda: self._greet(end.accept()[0]))
        else:
            self._greet(end)

    def serve(self) -> None:
        """Serve until this process is killed."""
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def _greet(self, connection: socket.socket) -> None:
        self._watch(connection.fileno(), lambda: self._read(connection))
        why = self._failure or unfit_to_fork()
        warm = Warm(environment=self._environment) if why is None else Unfit(reason=why)
        self._send(connection, warm.model_dump_json().encode())

    def _read(self, connection: socket.socket) -> None:
        try:
            content, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 2)
        except OSError:
            content, descriptors = b"", []
        if len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            self._disconnect(connection)
            return
        worker, log = descriptors
        try:
            self._fork(connection, ForkRequest.model_validate_json(content), worker, log)
        finally:
            os.close(worker)
            os.close(log)

    def _fork(self, connection: socket.socket, request: ForkRequest, worker: int, log: int) -> None:
        if (why := unfit_to_fork()) is not None:
            self._send(connection, Unfit(reason=why).model_dump_json().encode())
            return
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            self._become_worker(parent, request, worker, log)
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = pid, connection
        self._watch(pidfd, lambda: self._reap(pidfd))
        self._send(connection, Forked(pid=pid).model_dump_json().encode(), pidfd)

    def _become_worker(self, parent: int, request: ForkRequest, worker: int, log: int) -> NoReturn:
        status = 1
        try:
            die_with_parent()
            if os.getppid() != parent:
                os._exit(1)
            os.setsid()
            keep = {worker, log}
            for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - descriptors, not files
                if int(name) > 2 and int(name) not in keep:
                    with suppress(OSError):
                        os.close(int(name))
            for number in (1, 2):
                os.dup2(log, number)
            os.chdir(request.cwd)
            os.environ.clear()
            os.environ.update(request.environment)
            from pipelines.runner.device_health import reseed

            reseed()
            gc.enable()
            sys.argv = [request.module, str(worker), request.options]
            runpy.run_module(request.module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        pid, connection = self._workers.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        exited = Exited(pid=pid, status=os.waitstatus_to_exitcode(status))
        self._send(connection, exited.model_dump_json().encode())

    def _disconnect(self, connection: socket.socket) -> None:
        """Kill the workers of a server that is gone."""
        for pidfd, (_, theirs) in self._workers.items():
            if theirs is connection:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        self._selector.unregister(connection.fileno())
        connection.close()

    def _send(self, connection: socket.socket, content: bytes, *descriptors: int) -> None:
        # a server that is gone is noticed where its connection is read
        with suppress(OSError):
            socket.send_fds(connection, [content], descriptors)


def main() -> None:
    """Import the libraries, then serve the socket whose descriptor is the first argument."""
    die_with_parent()
    # before the imports: libraries set variables of their own
    environment = import_time_environment(os.environ)
    # libraries print to stdout, which belongs to the server
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    silence_libraries()
    import_libraries()
    gc.disable()
    gc.freeze()
    from pipelines.runner.device_health import cuda_refuses_children

    failure = unfit_to_fork() or ("a library has started CUDA" if cuda_refuses_children() else None)
    Template(socket.socket(fileno=int(sys.argv[1])), environment, failure).serve()


if __name__ == "__main__":
    main()
