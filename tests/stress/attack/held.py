"""A server whose process may hold so much memory and no more, and what it holds over time."""

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.stress.attack.held_server import DESCRIPTORS
from tests.stress.fuzz import KEY as ATTACKER
from tests.support.server_process import SMALL, ServerProcess

MIB = 2**20
LIMIT = 512 * MIB
"""The most memory of the server's process, without its workers."""

VICTIM = "a-key-of-another-client"
SETTINGS: dict[str, Any] = {
    "api_keys": f"{ATTACKER},{VICTIM}",
    "min_free_bytes": "0",
}
SAMPLE_SECONDS = 0.1
STOP_SECONDS = 30.0


@dataclass
class Meter:
    """What the server's process held: bytes of memory at most and last, and file descriptors at most."""

    peak: int = 0
    last: int = 0
    descriptors: int = 0

    def read(self, pid: int) -> None:
        """Look at the process. The kernel itself knows the highest memory since the start."""
        facts = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        sizes = dict(line.split(":", 1) for line in facts.splitlines() if line.startswith("Vm"))
        if "VmHWM" in sizes:
            self.peak = int(sizes["VmHWM"].split()[0]) * 1024
            self.last = int(sizes["VmRSS"].split()[0]) * 1024
        self.descriptors = max(self.descriptors, psutil.Process(pid).num_fds())

    @contextmanager
    def running(self, pid: int) -> Iterator[None]:
        """Look every SAMPLE_SECONDS, until the block or the process ends."""
        stop = threading.Event()

        def watch() -> None:
            try:
                while not stop.wait(SAMPLE_SECONDS):
                    self.read(pid)
            except (OSError, psutil.Error):
                # it has ended: what was read last stays
                pass

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class HeldServer:
    """A server with two keys. After its first video, its own process may hold LIMIT bytes of private memory."""

    def __init__(self, data_dir: Path, descriptors: int | None) -> None:
        self._descriptors = descriptors
        self.server = ServerProcess(data_dir, module="tests.stress.attack.held_server", **SETTINGS)
        self.victim = self.server.with_key(VICTIM)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.server.process is not None
        return self.server.process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        assert self.server.process is not None
        return self.server.process.poll()

    def start(self) -> None:
        """Start it, have it make a video, so that its worker is warm, and limit its memory."""
        if self._descriptors is not None:
            os.environ[DESCRIPTORS] = str(self._descriptors)
        try:
            self.server.start()
        finally:
            os.environ.pop(DESCRIPTORS, None)
        self.victim.wait_for(self.victim.enqueue(), "succeeded")
        resource.prlimit(self.pid, resource.RLIMIT_DATA, (LIMIT, LIMIT))

    def made(self, status: str = "succeeded") -> int:
        """How many of the victim's videos have this status."""
        params: dict[str, str | int] = {"status": status, "page_size": 1}
        return int(self.victim.http.get("/generations", params=params).raise_for_status().json()["total_entries"])

    def seconds_to_answer(self, patience: float) -> float | None:
        """How long it takes until the victim can enqueue over a new connection; None if it cannot in time."""
        began = time.monotonic()
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        headers = {"Authorization": f"Bearer {VICTIM}"}
        with httpx.Client(base_url=self.victim.http.base_url, headers=headers, transport=transport) as client:
            while (left := began + patience - time.monotonic()) > 0 and self.status is None:
                try:
                    client.post("/queue", json=SMALL, timeout=left).raise_for_status()
                except httpx.HTTPError:
                    time.sleep(SAMPLE_SECONDS)
                else:
                    return time.monotonic() - began
        return None

    def close(self) -> None:
        """Stop it, or kill it if that takes too long."""
        if self.status is None:
            assert self.server.process is not None
            self.server.process.terminate()
            with_patience = time.monotonic() + STOP_SECONDS
            while self.status is None and time.monotonic() < with_patience:
                time.sleep(SAMPLE_SECONDS)
        self.victim.http.close()
        self.server.close()
