"""Runs this machine's part of a cluster: `ray start`, with the environment and the limits that workers need."""

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from server.engine.ray.failures import explain
from server.engine.ray.nodes import DeviceKind, host_labels
from server.engine.ray.options import HOST_THREADS, device_resource, make_ray_folder, ray_environment

log = logging.getLogger("paddock.cluster")

_STORE_BYTES = 128 * 2**20
"""Of Ray's object store: files cross it in chunks."""

_WORKER_PORTS = 128
_TOKEN_BYTES = 32
_STOP_SECONDS = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
_SAID_LINES = 40

# what `ray start` prints
_OWN_ADDRESS = re.compile(r"Local node IP: (\S+)")
_STARTED = "Ray runtime started."


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a machine takes part in a cluster.

    - `head` is the address (`host:port`) of the cluster's head; None: this machine is the head.
    - `name` is the host's name in the cluster, `address` its IP address there (None: Ray finds it).
    - `port` is the first of its ports: the head's own, then those of the node, then those of its workers.
    - `devices` are the numbers of its devices.
    """

    head: str | None
    name: str
    port: int
    kind: DeviceKind
    devices: tuple[int, ...]
    data_dir: Path
    token_file: Path
    loras_dir: Path | None = None
    address: str | None = None


def start_command(options: NodeOptions) -> list[str]:
    """The command that runs the node until it is stopped."""
    port = options.port
    if options.head is not None:
        where = ["--address", options.head]
    else:
        # its monitor would start and stop machines of a cloud, and listens on a port of its own
        where = ["--head", "--port", str(port), "--include-dashboard=false", "--no-monitor"]
        if find_spec("grpc") is not None:
            # Ray then starts its client server, by default on a port elsewhere
            where += ["--ray-client-server-port", str(port + 5)]
    own = [] if options.address is None else ["--node-ip-address", options.address]
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, *own, "--block"),
        *("--disable-usage-stats", "--include-log-monitor=false"),
        # nothing but workers runs here, and they take their devices by name
        *("--num-cpus", "0", "--num-gpus", "0", "--object-store-memory", str(_STORE_BYTES)),
        *("--node-manager-port", str(port + 1), "--object-manager-port", str(port + 2)),
        *("--runtime-env-agent-port", str(port + 3), "--dashboard-agent-grpc-port", str(port + 4)),
        *("--min-worker-port", str(port + 6), "--max-worker-port", str(port + 5 + _WORKER_PORTS)),
        *("--resources", json.dumps({device_resource(index): 1 for index in options.devices})),
        *("--labels", ",".join(f"{name}={value}" for name, value in host_labels(options.name, options.kind).items())),
    ]


def node_environment(options: NodeOptions, variables: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the node, which its workers inherit."""
    ours = {"PADDOCK_DATA_DIR": str(options.data_dir)}
    if options.loras_dir is not None:
        ours["PADDOCK_LORAS_DIR"] = str(options.loras_dir)
    if "OMP_NUM_THREADS" in variables:
        ours[HOST_THREADS] = variables["OMP_NUM_THREADS"]
    own = {name: value for name, value in variables.items() if name != "RAY_ADDRESS"}
    return own | ray_environment(None, options.token_file) | ours


def make_token(path: Path) -> bool:
    """Make the cluster's token unless the file is there; returns whether it was made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(_TOKEN_BYTES))
    return True


class NodeProcess:
    """Keeps the node running until it is stopped: a node ends when the head is gone, and the head may come back.

    `on_started` is called with the machine's IP address whenever the node has started.
    """

    def __init__(self, options: NodeOptions, on_started: Callable[[str], None]) -> None:
        self._options = options
        self._on_started = on_started
        self._stopping = asyncio.Event()
        self._has_started = False

    async def run(self) -> None:
        """Run the node until `stop` is called; raises ClusterError if it cannot start with these options."""
        make_ray_folder()
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            said = await self._run_once()
            if self._stopping.is_set():
                return
            if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            error = explain(self._options.head, said)
            # a head waits for nobody
            if not self._has_started and (error.is_permanent or self._options.head is None):
                raise error
            log.warning("%s Trying again in %g s.", error, pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)

    def stop(self) -> None:
        """Stop the node, with all its workers."""
        self._stopping.set()

    async def _run_once(self) -> str:
        process = await asyncio.create_subprocess_exec(
            *start_command(self._options),
            env=node_environment(self._options, os.environ),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            # Ctrl-C is for this process
            start_new_session=True,
        )
        said: deque[str] = deque(maxlen=_SAID_LINES)
        reading = asyncio.create_task(self._read(process, said))
        stopping = asyncio.create_task(self._stopping.wait())
        ending = asyncio.create_task(process.wait())
        await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await _end(process)
        reading.cancel()
        return "\n".join(said)

    async def _read(self, process: Process, said: deque[str]) -> None:
        assert process.stdout is not None
        address = ""
        # ValueError: a line may be too long
        with suppress(ValueError):
            async for read in process.stdout:
                line = read.decode(errors="replace").rstrip()
                said.append(line)
                if (match := _OWN_ADDRESS.search(line)) is not None:
                    address = match[1]
                elif _STARTED in line:
                    self._has_started = True
                    self._on_started(address)


async def _end(process: Process) -> None:
    """Have a `ray start` end its processes; after some seconds kill all of its session."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
