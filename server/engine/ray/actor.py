"""The actor: starts a worker on its host, and passes lines and files between it and the bridge."""

import asyncio
import fcntl
import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

from pipelines.core.home import expanded
from server.core.logging import configure
from server.engine.interface import WorkerOptions
from server.engine.protocol import MAX_LINE_BYTES, WorkerEnded
from server.engine.ray.files.folders import Folder, WorkerFolders
from server.engine.ray.options import HOST_THREADS, BridgeOptions
from server.engine.subprocess.connection import WorkerProcess, described_exit, start_worker
from server.engine.subprocess.engine import WORKER
from server.engine.subprocess.environment import worker_environment

_EXIT_SECONDS = 2.0
_LOCK_SECONDS = 45.0
_READ_BYTES = 2**16


class HostError(Exception):
    """A worker cannot be started on this host; `str()` is a sentence."""


class HostedWorker:
    """One worker on a host of the cluster. `options` are BridgeOptions as JSON; `start` comes first."""

    def __init__(self, options: str) -> None:
        given = BridgeOptions.model_validate_json(options)
        configure("info", given.log_format)
        self._given = given
        self._home = data_dir(os.environ) / "hosts" / given.host / str(given.index)
        self._options = _on_host(given, self._home, os.environ)
        self._folders = WorkerFolders(self._options)
        self._worker: WorkerProcess | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lock: int | None = None
        self._heard = time.monotonic()
        threading.Thread(target=self._watch, name="dead-man switch", daemon=True).start()

    def _watch(self) -> None:
        """End this process, and with it the worker, when the bridge is gone.

        Ray may leave both running for minutes after the death of its own process on this host.
        """
        while time.monotonic() - self._heard < self._given.lost_seconds:
            time.sleep(1)
        os._exit(1)

    async def start(self) -> None:
        """Start the worker; raises HostError."""
        try:
            self._lock = await self._hold_device()
            for name in Folder:
                shutil.rmtree(getattr(self._options, name), ignore_errors=True)
            self._folders.make()
            ours, theirs = socket.socketpair()
            with theirs:
                self._worker = await start_worker(
                    WORKER,
                    self._options,
                    theirs,
                    environment=host_environment(os.environ, self._options.device),
                    inherited=[self._lock],
                )
            self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        except OSError as error:
            raise HostError(f"No worker could be started: {error.strerror}.") from error

    async def _hold_device(self) -> int:
        """Wait until no other worker of this device is left: one may have outlived its Ray node for some seconds.

        Returns the descriptor of the lock, which is held until this process and the worker have ended.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(lock)
                    raise HostError(f"Device {self._given.index} is still held by another worker.") from None
                await asyncio.sleep(0.2)
            else:
                return lock

    async def ping(self) -> None:
        """Say that the bridge is there."""
        self._heard = time.monotonic()

    async def send(self, line: bytes) -> None:
        """Pass an order to the worker. To a dead worker nothing is sent: the reader of reports learns of its end."""
        assert self._writer is not None
        with suppress(ConnectionError, RuntimeError):
            self._writer.write(line)
            await self._writer.drain()

    async def reports(self) -> AsyncIterator[bytes]:
        """What the worker sends, as it comes; the last line says how it ended."""
        assert self._reader is not None
        last = b"\n"
        with suppress(OSError):
            while data := await self._reader.read(_READ_BYTES):
                last = data[-1:]
                yield data
        yield (b"" if last == b"\n" else b"\n") + WorkerEnded(message=await self._exit_reason()).line()

    async def _exit_reason(self) -> str:
        assert self._worker is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._worker.wait()
        with suppress(ProcessLookupError):
            self._worker.kill()
        return described_exit(await self._worker.wait())

    async def read(self, folder: str, key: str) -> AsyncIterator[bytes]:
        """A file of the worker, in chunks; nothing if there is none."""
        with suppress(FileNotFoundError):
            async for chunk in self._folders.read(Folder(folder), key):
                yield chunk

    async def append(self, folder: str, key: str, chunk: bytes, is_first: bool) -> None:
        """Add a chunk to a file for the worker."""
        await self._folders.append(Folder(folder), key, chunk, is_first=is_first)

    async def complete(self, folder: str, key: str) -> None:
        """Let the worker see a file whose chunks have come."""
        await self._folders.complete(Folder(folder), key)

    async def remove(self, folder: str, key: str) -> None:
        """Remove a file of the worker."""
        await self._folders.remove(Folder(folder), key)


def data_dir(variables: Mapping[str, str]) -> Path:
    """The host's data directory."""
    return expanded(variables.get("PADDOCK_DATA_DIR") or "~/.paddock").absolute()


def host_environment(variables: Mapping[str, str], device: str) -> dict[str, str]:
    """The environment of a worker for a torch device: the host's, without what Ray has added to the actor's own."""
    own = {name: value for name, value in variables.items() if not name.startswith("RAY_")}
    own.pop("OMP_NUM_THREADS", None)
    if threads := own.pop(HOST_THREADS, ""):
        own["OMP_NUM_THREADS"] = threads
    return worker_environment(device, own)


def _on_host(given: BridgeOptions, home: Path, variables: Mapping[str, str]) -> WorkerOptions:
    """The worker's options, with the host's folders in place of the server's."""
    shared = {name: value for name, value in given.model_dump().items() if name in WorkerOptions.model_fields}
    return WorkerOptions.model_validate(
        shared
        | {name: str(home / name) for name in Folder}
        | {
            "temporary": str(home / "tmp"),
            "cache": str(data_dir(variables) / "cache"),
            "loras": variables.get("PADDOCK_LORAS_DIR") or None,
        }
    )
