"""A server on loopback that stands in for somebody else's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


class Quiet:
    """A handler of requests without a log."""

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """The client has left."""


class StandIn:
    """Answers requests by a handler once it is `serving`."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.may_go_on = threading.Event()
        """What an answer that is held waits for."""
        self.server = _Server(("127.0.0.1", 0), handler)
        self.port = self.server.server_address[1]


Kind = TypeVar("Kind", bound=StandIn)


@contextmanager
def serving(stand_in: Kind) -> Iterator[Kind]:
    """The server while it runs."""
    server = stand_in.server
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.may_go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
