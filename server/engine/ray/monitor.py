"""A child process that prints the hosts of a Ray cluster, as ClusterView in JSON, one line whenever they change.

`python -P -m server.engine.ray.monitor ADDRESS`. It ends with its parent, and when the head is gone for good.
"""

import os
import select
import sys

from ray.exceptions import RayError

from pipelines.core.processes import die_with_parent
from server.engine.ray.connect import check_closed, connect, nodes
from server.engine.ray.drain import free_devices, marked_nodes
from server.engine.ray.failures import ClusterError, no_answer
from server.engine.ray.nodes import ClusterView, hosts_of
from server.engine.ray.options import CONNECT_SECONDS

_SECONDS = 2.0


def main() -> None:
    """Print views until the parent ends."""
    die_with_parent()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # libraries print to stdout
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        connect(sys.argv[1], CONNECT_SECONDS)
        check_closed(CONNECT_SECONDS)
    except ClusterError as error:
        view = ClusterView(error=str(error), is_permanent=error.is_permanent)
        print(view.model_dump_json(), file=output, flush=True)
        return
    last = None
    reader = select.poll()
    reader.register(output, 0)
    while True:
        try:
            view = ClusterView(hosts=tuple(hosts_of(nodes(), free_devices(), marked_nodes())))
        except RayError as error:
            view = ClusterView(error=no_answer(error))
        if view != last:
            print(view.model_dump_json(), file=output, flush=True)
            last = view
        # a parent that died before die_with_parent is known by its end of the pipe
        if reader.poll(_SECONDS * 1000):
            return


if __name__ == "__main__":
    main()
