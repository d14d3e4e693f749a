"""Starts a worker: `python -P -m server.engine.worker FD OPTIONS`, with an open socket and WorkerOptions as JSON.

The worker ends when that socket is closed, so that it never outlives its server.
"""

import os
import socket
import sys

from pipelines.core.processes import die_with_parent
from server.core.logging import configure
from server.engine.interface import WorkerOptions
from server.engine.protocol import Hello
from server.engine.worker.folders import use_folders
from server.engine.worker.link import Link
from server.engine.worker.memory import watch_memory
from server.engine.worker.worker import Worker, silence_libraries


def main(make_link: type[Link] = Link, make_worker: type[Worker] = Worker) -> None:
    """Serve the socket whose descriptor is the first argument."""
    die_with_parent()
    # libraries print to stdout, which belongs to the server
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    options = WorkerOptions.model_validate_json(sys.argv[2])
    configure("info", options.log_format)
    use_folders(options)
    silence_libraries()
    link = make_link(socket.socket(fileno=int(sys.argv[1])))
    link.start()
    watch_memory(link, options.device)
    link.send(Hello())
    make_worker(link, options).serve()


if __name__ == "__main__":
    main()
