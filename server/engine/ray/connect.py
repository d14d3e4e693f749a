"""Connects this process, as a Ray driver, to a cluster."""

import logging
import os
import subprocess
import sys
import threading
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from server.engine.ray.failures import ClusterError, explain
from server.engine.ray.options import make_ray_folder

_REFUSED = 3

_WITHOUT_TOKEN = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError

try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit({_REFUSED})
"""


def connect(address: str, seconds: float) -> None:
    """Connect to a cluster (`host:port`, or `auto` for the one that this machine has joined); raises ClusterError.

    It has some seconds to answer. The environment of the process is `ray_environment`'s, and it works in / from now on:
    Ray has actors import from the folder of their driver.
    """
    make_ray_folder()
    os.chdir("/")
    # they would be in the server's log, once from each of its processes
    logging.getLogger("ray").setLevel(logging.ERROR)
    failure: list[BaseException] = []

    def init() -> None:
        try:
            _check_token(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="paddock")
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that waits
            failure.append(error)

    connecting = threading.Thread(target=init, name="connect", daemon=True)
    connecting.start()
    connecting.join(seconds)
    if connecting.is_alive() or failure:
        raise explain(address, f"{type(failure[0]).__name__}: {failure[0]}" if failure else "")


def _check_token(address: str) -> None:
    """Raise AuthenticationError if a cluster refuses the token: a driver would say that it does not answer."""
    if address != "auto":
        try:
            GcsClient(address=address)
        except AuthenticationError:
            raise
        except RayError:
            # a driver says more of it
            pass


def check_closed(seconds: float) -> None:
    """Raise ClusterError if the cluster, to which this process is connected with a token, asks nobody for one.

    Ray does not say so: a cluster that was started without a token takes any. Another process asks it without, for
    some seconds; if it gets no answer in time nothing is raised.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return
    address = ray.get_runtime_context().gcs_address
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", _WITHOUT_TOKEN, address],
            env={**bare, "RAY_AUTH_MODE": "disabled"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if asked.returncode == 0:
        raise ClusterError(
            f"The cluster at {address} asks for no token: whoever reaches it can run programs on its machines. Start "
            "its head with `paddock cluster head`.",
            is_permanent=True,
        )


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, as Ray describes them, also those that are dead."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found
