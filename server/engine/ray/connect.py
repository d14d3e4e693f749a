"""Connects this process, as a Ray driver, to a cluster."""

import logging
import threading
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from server.engine.ray.failures import explain


def connect(address: str, seconds: float) -> None:
    """Connect to a cluster (`host:port`, or `auto` for the one that this machine has joined); raises ClusterError.

    It has some seconds to answer. The environment of the process is `ray_environment`'s.
    """
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


def actor_names() -> set[str]:
    """The names of the actors that Paddock's servers have in the cluster."""
    return set(ray.util.list_named_actors())


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, as Ray describes them, also those that are dead."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found
