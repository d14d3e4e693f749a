"""How the processes between the server and a Ray cluster are started."""

import ipaddress
import os
import stat
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from server.engine.interface import WorkerOptions
from server.engine.ray.failures import ClusterError
from server.engine.subprocess.environment import without_credentials

BRIDGE = "server.engine.ray.bridge"
"""The module of the process that stands in a worker's place."""

BRIDGE_EXITS = MappingProxyType({1: "The Ray node on this machine has ended, and with it the way to the worker."})
"""The status with which Ray ends its processes when their node is gone; they can say nothing before."""

HOST_THREADS = "PADDOCK_HOST_OMP_NUM_THREADS"
"""OMP_NUM_THREADS as the host was started with, which Ray replaces by a value of its own."""

CONNECT_SECONDS = 30.0
"""How long a cluster may take to answer; Ray itself would wait for minutes."""

TOKEN_FILE = "cluster-token"  # noqa: S105 - a file's name
"""In a data directory: the token of the cluster that it belongs to."""

RAY_FOLDER = Path(f"/tmp/paddock-ray-{os.getuid()}")  # noqa: S108 - the paths of Ray's sockets must be short
"""For Ray's sockets and logs, and for the address that `auto` stands for: a folder of this user alone."""

_RAY = {
    "RAY_TMPDIR": str(RAY_FOLDER),
    "RAY_USAGE_STATS_ENABLED": "0",
    # a worker loads more than Ray would let it have
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    # Ray's own device variables would hide the GPUs that a worker is told to use
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
    # a frozen or lost host is known after some seconds, by default after 15 to 30
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has Ray keep 127.0.0.1 instead of replacing it by the address of a network card."""


class BridgeOptions(WorkerOptions):
    """How a bridge is started: the folders are the server's, `device` is the torch device on the worker's host.

    `address` is the cluster's, which has `connect_seconds` to answer; `host` is the name of the host whose Ray node is
    `node_id`, `index` the number of the device there. A worker has `start_seconds` to start, and ends when it has not
    heard of its bridge for `lost_seconds`.
    """

    address: str
    host: str
    node_id: str
    index: int
    connect_seconds: float = CONNECT_SECONDS
    start_seconds: float = 60.0
    lost_seconds: float = 30.0


def bridge_environment(address: str, token_file: Path | None) -> dict[str, str]:
    """The whole environment of a bridge or a monitor."""
    return {**without_credentials(os.environ), **ray_environment(address, token_file)}


def make_ray_folder() -> None:
    """Make RAY_FOLDER; raises ClusterError if there is something else, or if other users can write to it."""
    try:
        RAY_FOLDER.mkdir(mode=0o700, exist_ok=True)
        found = RAY_FOLDER.lstat()
    except OSError as error:
        raise ClusterError(f"{RAY_FOLDER} cannot be made: {error.strerror}.", is_permanent=True) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ClusterError(f"{RAY_FOLDER} must be a folder that only this user can use.", is_permanent=True)


def device_resource(index: int) -> str:
    """The name of the Ray resource that stands for one device of a host, of which there is one."""
    return f"paddock-device-{index}"


def actor_name(node_id: str, index: int) -> str:
    """The name of the actor that holds a device of a Ray node. Only one at a time can have it, of whatever server."""
    return f"{node_id}/{index}"


def is_loopback(address: str) -> bool:
    """Whether a cluster's address (`host:port`) is reachable from its own machine only."""
    host = urlsplit(f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ray_environment(address: str | None, token_file: Path | None) -> dict[str, str]:
    """The environment variables of a process that uses Ray, for a cluster's address (None: this machine's head).

    With a token only processes that have it can use the cluster.
    """
    token = {} if token_file is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
    return _RAY | token | (_LOOPBACK if address is not None and is_loopback(address) else {})
