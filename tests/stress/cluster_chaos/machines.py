"""Machines of the cluster: each is a real `paddock cluster head` or `paddock cluster join`, with its own ports."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from server.engine.ray.options import TOKEN_FILE

HEAD_PORT = 6379
_PORTS = 200
_PATIENCE = 120.0
_DEVICES = 1


class Machine:
    """One machine with one device; all of its processes are below one."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self.name = name
        self.is_head = number == 0
        self._folder = folder / name
        self._port = HEAD_PORT + number * _PORTS
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def device(self) -> str:
        """The name of its device."""
        return f"{self.name}/0"

    def start(self, token: Path | None) -> None:
        """Start it, with the token of a head that is there, and wait until it is part of the cluster."""
        self._folder.mkdir(exist_ok=True)
        if token is not None:
            (self._folder / TOKEN_FILE).write_bytes(token.read_bytes())
        role = ["head"] if self.is_head else ["join", f"127.0.0.1:{HEAD_PORT}"]
        options = ["--demo-devices", str(_DEVICES), "--name", self.name, "--port", str(self._port)]
        said = len(self.log_text())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server.cli", "cluster", *role, *options, "--data-dir", str(self._folder)],
                # each worker computes alike, whatever else runs
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        started = "The head runs at" if self.is_head else "has joined"
        until = time.monotonic() + _PATIENCE
        while started not in self.log_text()[said:]:
            assert self._process.poll() is None, self.log_text()
            assert time.monotonic() < until, self.log_text()
            time.sleep(0.1)

    @property
    def token(self) -> Path:
        """The cluster's token."""
        return self._folder / TOKEN_FILE

    def log_text(self) -> str:
        """What it said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def find(self, pattern: str) -> list[psutil.Process]:
        """Its processes whose command line has a pattern."""
        return [each for each in self.processes() if re.search(pattern, command_of(each))]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def kill(self) -> None:
        """Kill all its processes, as a power failure does."""
        # a process that is frozen first cannot start another one meanwhile
        self.signal(signal.SIGSTOP)
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        """Have it leave the cluster."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(_PATIENCE)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None


def command_of(process: psutil.Process) -> str:
    """The command line of a process, empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def all_matching(pattern: str, is_ours: Callable[[psutil.Process], bool]) -> Iterator[psutil.Process]:
    """The living processes of this machine whose command line has a pattern."""
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if each.status() != psutil.STATUS_ZOMBIE and re.search(pattern, command_of(each)) and is_ours(each):
                yield each
