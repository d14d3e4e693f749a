"""A receiver of webhooks on loopback, and an internet in which a name of a public address leads to it.

The real server in it: `python -P -m tests.support.webhook_host serve …`. The name hooks.example stands for a public
address, which leads to the port in WEBHOOK_HOST_PORT; rebound.example is public once and then this machine, and
inside.example is this machine.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler
from threading import Lock
from typing import Any

from standardwebhooks import Webhook

from server.cli import main as cli
from server.media.fetch.exchange import Exchanges
from server.service.notifications.webhooks import delivery
from server.service.notifications.webhooks.sender import WebhookSender
from tests.support.image_host import PUBLIC, Internet
from tests.support.stand_in import Quiet, StandIn, serving

NAME = "hooks.example"
URL = f"http://{NAME}/in"


@dataclass(frozen=True)
class Received:
    """A request as it came, and how it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """The event, after somebody else's library has verified the signature."""
        event: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return event


class WebhookHost(StandIn):
    """Receives events. `status` decides how the next one is answered."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.status: Callable[[], int] = lambda: 204
        self.delay = 0.0
        self._lock = Lock()
        host = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers["content-length"]))
                with host._lock:
                    status = host.status()
                    host.received.append(Received(self.path, headers, body, status))
                time.sleep(host.delay)
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        super().__init__(Handler)

    @property
    def arrived(self) -> list[Received]:
        """What was answered with success."""
        return [each for each in self.received if each.status < 300]

    def internet(self) -> Internet:
        """An internet in which the host is reached by its name."""
        return internet(self.port)


@contextmanager
def webhook_host() -> Iterator[WebhookHost]:
    """A receiver that runs."""
    with serving(WebhookHost()) as host:
        yield host


def internet(port: int) -> Internet:
    names = {NAME: [[PUBLIC]], "rebound.example": [[PUBLIC], ["127.0.0.1"]], "inside.example": [["127.0.0.1"]]}
    return Internet({PUBLIC: port}, names)


if __name__ == "__main__":
    world = internet(int(os.environ["WEBHOOK_HOST_PORT"]))
    delivery.WebhookSender = partial(  # type: ignore[assignment, misc]
        WebhookSender, Exchanges(world.resolve, world)
    )
    # a day is too long for a test
    delivery.PAUSES = tuple(0.2 for _ in delivery.PAUSES)
    cli.main()
