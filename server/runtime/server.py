"""Starts the HTTP server after all checks have passed, and stops it gracefully."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import anyio
import psutil
import uvicorn
from fastapi import FastAPI

from server.core.logging import configure
from server.core.settings.settings import Settings
from server.runtime.app import create_app
from server.runtime.http.connections import ConnectionLimits, raise_descriptor_limit
from server.runtime.http.forwarded import TrustedProxies
from server.runtime.http.listeners import listen, try_to_listen
from server.runtime.http.protocol import protocol_class
from server.runtime.lan import Invitation, invite
from server.runtime.preflight import run_checks
from server.service.service import Service

log = logging.getLogger("paddock")

_GRACE_SECONDS = 5

STOP_SECONDS = 15.0
"""After `stop_grace` and so long the server ends by force: a database or a disk that hangs would stop it for ever."""

_OF_CLIENTS = ("Invalid HTTP request received.", "Unsupported upgrade request.")

_SWITCH_SECONDS = 0.0005
"""Python's default is 5 ms. Between two rows of a statement a thread waits so long for a busy event loop."""


def serve(settings: Settings, show: Callable[[Invitation], None] | None = None) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; raises StartRefusedError if a check fails.

    With `show` the server is shared on the local network: other machines get a key, and `show` is called with the
    invitation for them once the server listens.
    """
    configure(settings.log_level, settings.log_format)
    logging.getLogger("uvicorn.error").addFilter(_is_of_the_server)
    for warning in settings.warnings:
        log.warning("%s", warning)
    devices = run_checks(settings, lambda: try_to_listen(settings), makes_key=show is not None)
    memory = psutil.virtual_memory().total
    limits = ConnectionLimits.of(raise_descriptor_limit(), settings.max_connections_per_address, memory)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in listen(settings)]
        if show is not None:
            show(invite(settings, listeners[0].getsockname()[1]))
        app = create_app(settings, devices)
        # these objects live as long as the process: frozen, they do not slow down later garbage collections
        gc.freeze()
        gc.enable()
        sys.setswitchinterval(_SWITCH_SECONDS)
        config = uvicorn.Config(
            app,
            http=protocol_class(settings.head_timeout, limits, TrustedProxies(settings.trusted_proxies)),
            # uvicorn's own reading knows neither the host nor the prefix
            proxy_headers=False,
            # an upgraded connection would be under no limit
            ws="none",
            log_config=None,
            access_log=settings.log_level == "debug",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        for listener in listeners:
            address, port = listener.getsockname()[:2]
            host = f"[{address}]" if ":" in address else address
            log.info("Paddock listens on http://%s:%d", host, port)
        server = _Server(config, app, settings.stop_grace + STOP_SECONDS)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            # a terminal that is closed sends it; after nohup it is ignored
            signal.signal(signal.SIGHUP, server.handle_exit)
        server.run(sockets=listeners)


def _is_of_the_server(record: logging.LogRecord) -> bool:
    """Drop the traceback of a request whose client left, or did not read until the server stopped.

    And drop what any client can have logged without end: that it sent what is not HTTP, which it is told itself.
    """
    if record.levelno == logging.WARNING and record.msg in _OF_CLIENTS:
        return False
    error = record.exc_info[1] if record.exc_info else None
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return not isinstance(error, asyncio.CancelledError | anyio.BrokenResourceError)


class _Server(uvicorn.Server):
    """A uvicorn server that, on a signal, saves running generations before it stops; a second signal stops at once.

    The service begins to close before uvicorn waits for open connections, because these may wait for the service.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, patience: float) -> None:
        super().__init__(config)
        self._app = app
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False
        self._saving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        service = getattr(self._app.state, "service", None)
        if service is None or self._loop is None or self._is_stopping:
            super().handle_exit(sig, frame)
            return
        log.info("%s: stopping", signal.Signals(sig).name)
        self._is_stopping = True
        forcing = threading.Timer(self._patience, self._end_by_force)
        forcing.daemon = True
        forcing.start()
        self._loop.call_soon_threadsafe(self._stop, service, sig)

    def _end_by_force(self) -> None:
        """End at once. What ran continues at the next start, as after a kill."""
        log.error(
            "the server did not stop within %g s: its database or its disk may hang. It ends now.", self._patience
        )
        logging.shutdown()
        os._exit(1)

    def _stop(self, service: Service, sig: int) -> None:
        service.begin_closing()

        async def save_and_exit() -> None:
            try:
                await service.suspend()
            finally:
                uvicorn.Server.handle_exit(self, sig, None)

        self._saving = asyncio.create_task(save_and_exit())
