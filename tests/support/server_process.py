"""A real server in its own process, for tests and benchmarks."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import httpx
import psutil
import pytest

T = TypeVar("T")

MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"
SMALL: dict[str, Any] = {
    "model": MODEL,
    "prompt": "An ox by a lake",
    "width": 64,
    "height": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
}
"""A request that the demo model completes in a fraction of a second."""
ENDLESS: dict[str, Any] = {**SMALL, "width": 416, "height": 240, "num_frames": 33, "num_inference_steps": 100}
"""A request of short steps that runs for minutes: for tests that observe or cancel it."""

PATIENCE = 120.0
"""The default timeout in seconds: on a busy machine many things take long, which is no failure."""

TERMINAL = ("succeeded", "failed", "cancelled")
CLEAN_ENDS = (0, -signal.SIGTERM)
"""Exit statuses of a stopped server: uvicorn raises the signal again after the shutdown."""


def free_port() -> int:
    """A free port outside of the system's ephemeral range.

    A server needs seconds until it listens, so each process of pytest-xdist has its own share of ports.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    ours = range(10_000 + int(worker.removeprefix("gw")), 32_000, int(workers))
    while True:
        port = random.SystemRandom().choice(ours)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def eventually(condition: Callable[[], T], server: "ServerProcess | None" = None, patience: float = PATIENCE) -> T:
    """Wait until a condition is true and return its value."""
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() < began + patience, f"still {found!r}:\n{server.log_text() if server else ''}"
        time.sleep(pause(began, 0.02, 0.1))
    return found


def pause(since: float, least: float, most: float) -> float:
    """Seconds until the next poll; they grow with the time waited, so that polling does not slow the server."""
    return min(most, max(least, (time.monotonic() - since) / 20))


class ServerProcess:
    """`paddock serve --demo` on a data directory. It can be killed and started again on the same port.

    `template` gives the socket of a template for the workers of all servers; without one each server has its own.
    `prefix` is a program that runs the server's command in another place.
    """

    template: ClassVar[Callable[[], Path] | None] = None
    prefix: tuple[str, ...] = ()

    def __init__(self, data_dir: Path, *args: str, demo: bool = True, module: str = "server.cli", **env: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._module = module
        self._args = [*(["--demo"] if demo else []), *args]
        self._env = {f"PADDOCK_{name.upper()}": value for name, value in env.items()}
        if self.template is not None and "warm_workers" not in env:
            self._env["PADDOCK_WORKER_TEMPLATE"] = str(self.template())
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"{self.url}/api/ai", timeout=PATIENCE)

    def start(self, wait: float = PATIENCE) -> float:
        """Start it, wait until /healthz answers, and return the seconds this took."""
        command = [sys.executable, "-P", "-m", self._module, "serve", *self._args]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *command, "--data-dir", str(self.data_dir), "--port", str(self.port)],
                env={**os.environ, **self._env},
                stdout=log,
                stderr=log,
            )
        began = time.monotonic()
        while time.monotonic() - began < wait:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log_text()}")
            try:
                httpx.get(f"{self.url}/healthz", timeout=1)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return time.monotonic() - began
        raise AssertionError(f"the server did not answer within {wait} s:\n{self.log_text()}")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = PATIENCE) -> int:
        """Stop it with SIGTERM and return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def with_key(self, key: str) -> "ServerProcess":
        """The same server, with requests that carry this API key."""
        seen = copy(self)
        headers = {"Authorization": f"Bearer {key}"}
        seen.http = httpx.Client(base_url=self.http.base_url, timeout=PATIENCE, headers=headers)
        return seen

    def close(self) -> None:
        """Kill the server if it runs, and close the client."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.http.close()

    def log_text(self) -> str:
        """The log of the server and its worker so far."""
        return self.log.read_text(errors="replace")

    def worker_pids(self) -> list[int]:
        """The worker processes of this server that are alive: its log names all that were started."""
        started = [int(pid) for pid in re.findall(r"worker (\d+) started for", self.log_text())]
        return [pid for pid in started if is_alive(pid)]

    def enqueue(self, **changes: Any) -> str:
        """Enqueue one small generation and return its id."""
        response = self.http.post("/queue", json={**SMALL, **changes})
        assert response.status_code == 200, response.text
        return str(response.json()["generations"][0]["generation_id"])

    def row(self, generation_id: str) -> dict[str, Any]:
        """A generation's row."""
        response = self.http.get(f"/queue/{generation_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def listed(self, status: str) -> list[dict[str, Any]]:
        """The rows with a status."""
        return list(self.http.get("/queue", params={"status": status}).json()["generations"])

    def wait_for(self, generation_id: str, *statuses: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Poll until a generation has one of the statuses; without any, a terminal one."""
        began = time.monotonic()
        while (row := self.row(generation_id))["status"] not in (statuses or TERMINAL):
            assert row["status"] not in TERMINAL, row
            assert time.monotonic() < began + timeout, f"still {row} after {timeout} s:\n{self.log_text()}"
            time.sleep(pause(began, 0.05, 0.2))
        return row

    def wait_until_idle(self) -> None:
        """Wait until all devices are idle."""
        eventually(lambda: not any(each["busy"] for each in httpx.get(f"{self.url}/readyz").json()["devices"]), self)

    def video(self, generation_id: str) -> bytes:
        """The finished video of a generation."""
        row = self.wait_for(generation_id, "succeeded")
        response = httpx.get(row["result_url"])
        assert response.status_code == 200, response.text
        return response.content


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class SmallDisk:
    """A small file system mounted at `folder`, to be filled to the last byte. Needs root."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(mount, stderr=subprocess.PIPE, check=False, text=True)
        if mounted.returncode != 0:
            if os.environ.get("CI") == "true" and os.geteuid() == 0:
                pytest.fail(f"CI must be able to mount a small disk: {mounted.stderr}")
            pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")

    def fill(self, leave: int = 0) -> None:
        """Fill all but `leave` bytes."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while (free := shutil.disk_usage(self.folder).free - leave) > 0:
                file.write(bytes(free))

    def empty(self) -> None:
        """Free the filled space."""
        self._ballast.unlink()

    def make_read_only(self) -> None:
        """Remount it read-only."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def unmount(self) -> None:
        """Unmount it, even if files are open."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def needs(program: str) -> str:
    """The path of a program from Debian. Without it the test is skipped, but fails in CI."""
    path = shutil.which(program)
    if path is None:
        lacks(f"{program} is not installed")
    return path


def lacks(sentence: str) -> NoReturn:
    """Skip a test that lacks something on this machine, and say what; in CI it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{sentence}, and CI must have it")
    pytest.skip(sentence)


def model_on(weights: Path, folder: Path) -> Path:
    """A folder of models in which the 14B model uses these weights."""
    text = (Path(__file__).parents[2] / "configs" / "models" / "wan2.1-t2v-14b.toml").read_text()
    folder = Path(tempfile.mkdtemp(dir=folder))
    (folder / "mine.toml").write_text(text.replace('"Wan-AI/Wan2.1-T2V-14B-Diffusers"', f'"{weights}"'))
    return folder
