"""Connects this process, as a Ray driver, to a cluster."""

import logging
import threading
from typing import Any

import ray

_SECONDS = 30.0


class ClusterError(Exception):
    """The cluster cannot be used; `str()` is a sentence."""


def connect(address: str) -> None:
    """Connect to a cluster (`host:port`, or `auto` for the one that this machine has joined); raises ClusterError.

    The environment of the process is `ray_environment`'s.
    """
    # they would be in the server's log, once from each of its processes
    logging.getLogger("ray").setLevel(logging.ERROR)
    failure: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="paddock")
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that waits
            failure.append(error)

    # Ray waits for minutes for a cluster that does not answer
    connecting = threading.Thread(target=init, name="connect", daemon=True)
    connecting.start()
    connecting.join(_SECONDS)
    if connecting.is_alive() or failure:
        raise ClusterError(_sentence(address, failure[0] if failure else None))


def _sentence(address: str, error: BaseException | None) -> str:
    said = "" if error is None else " ".join(str(error).split())
    if "authentic" in said.lower() or "token" in said.lower():
        return f"The Ray cluster at {address} refuses this machine's token."
    if "version mismatch" in said.lower():
        return f"The Ray cluster at {address} runs other versions: {said[:300]}"
    return (
        f"The Ray cluster at {address} does not answer, or this machine has not joined it with `paddock cluster join`."
        + (f" Ray says: {said[:300]}" if said else "")
    )


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, as Ray describes them, also those that are dead."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found
