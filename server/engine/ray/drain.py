"""Marks of the hosts that are to be drained: their devices give back what they make, and take nothing more.

The marks are in the key-value store of the cluster's head: every server that uses the cluster sees them there, and
every machine that has joined it can make them, also one that knows no server. (The records are out of reach for a host,
and Ray cannot change the labels of a node that runs.) A mark is of a Ray node: a host that joins again has none, and
the marks end with the head.

`python -P -m server.engine.ray.drain ADDRESS MARK NODE` makes the mark of a node (MARK: drain) or removes it (undrain).
It prints why it could not, a sentence, or nothing.
"""

import os
import sys

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv

from pipelines.core.processes import die_with_parent
from server.engine.ray.connect import connect, nodes
from server.engine.ray.failures import ClusterError, no_answer
from server.engine.ray.options import CONNECT_SECONDS

_NAMESPACE = b"paddock"
_PREFIX = b"drain/"


def marked_nodes() -> frozenset[str]:
    """The ids of the nodes that are to be drained; raises RayError. This process is connected."""
    keys: list[bytes] = internal_kv._internal_kv_list(_PREFIX, namespace=_NAMESPACE)
    return frozenset(key.removeprefix(_PREFIX).decode() for key in keys)


def free_devices() -> dict[str, frozenset[str]]:
    """By the id of each node the names of its resources that no actor holds, some moments old; raises RayError."""
    found: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return {node: frozenset(name for name, amount in free.items() if amount >= 1) for node, free in found.items()}


def mark(node_id: str) -> None:
    """Have a node drained; raises RayError. Marks of nodes that have left are removed, so that they do not add up."""
    internal_kv._internal_kv_put(_PREFIX + node_id.encode(), b"", namespace=_NAMESPACE)
    alive = {node["NodeID"] for node in nodes() if node["Alive"]}
    for gone in marked_nodes() - alive:
        unmark(gone)


def unmark(node_id: str) -> None:
    """Let a node take work again; raises RayError."""
    internal_kv._internal_kv_del(_PREFIX + node_id.encode(), namespace=_NAMESPACE)


def main() -> None:
    """Make or remove a mark."""
    die_with_parent()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # libraries print to stdout
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    address, what, node_id = sys.argv[1:]
    try:
        connect(address, CONNECT_SECONDS)
        {"drain": mark, "undrain": unmark}[what](node_id)
    except ClusterError as error:
        print(error, file=output, flush=True)
    except RayError as error:
        print(no_answer(error), file=output, flush=True)
    # Ray's own end takes seconds
    os._exit(0)


if __name__ == "__main__":
    main()
