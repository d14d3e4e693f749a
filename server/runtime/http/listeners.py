"""The sockets that the server listens on."""

import errno
import os
import socket

from server.core.settings.sections import ServerSettings
from server.runtime.preflight import StartRefusedError

_BACKLOG = 2048

_RECEIVE_BYTES = 64 * 1024
"""How much the system receives ahead on a connection, so that it arrives here in parts no larger than that."""

_UNSENT_BYTES = 128 * 1024
"""How much the system keeps of what the client's window has no room for yet. Its own limit is megabytes."""

_ADVICE = {
    errno.EADDRINUSE: "Another program uses this port. Choose another with --port.",
    errno.EACCES: "Ports below 1024 need special rights. Choose another with --port.",
    errno.EADDRNOTAVAIL: "This machine does not have the address. Choose another with --host.",
    errno.EAFNOSUPPORT: "This machine does not support such addresses. Choose another with --host.",
}


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Return the sockets for the host and port of the settings. Raises StartRefusedError that names the option.

    "localhost" and "::" stand for IPv4 and IPv6, as far as the machine has both.
    """
    host, port = settings.host, settings.port
    try:
        if host == "::" and socket.has_dualstack_ipv6():
            both = socket.create_server((host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
            return [_bounded(both)]
        first, *others = ("127.0.0.1", "::1") if host == "localhost" else (host,)
        listeners = [_listener(first, port)]
        # the port that was chosen, if it was 0
        port = listeners[0].getsockname()[1]
        for other in others:
            _add_if_possible(listeners, other, port)
    except OSError as error:
        code = error.errno or 0
        if isinstance(error, socket.gaierror) or code < 0:
            raise StartRefusedError(
                f"Cannot listen on {host} port {port}: no address is known for this name. Choose another with --host."
            ) from error
        advice = _ADVICE.get(code, "Choose other values with --host and --port.")
        raise StartRefusedError(f"Cannot listen on {host} port {port}: {os.strerror(code)}. {advice}") from error
    except OverflowError as error:
        raise StartRefusedError(
            f"Cannot listen on {host}: there is no port {port}. Choose another with --port."
        ) from error
    return listeners


def try_to_listen(settings: ServerSettings) -> None:
    """Raise StartRefusedError unless the host and port of the settings can be used now. Nothing stays open."""
    for listener in listen(settings):
        listener.close()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _bounded(socket.create_server((host, port), family=family, backlog=_BACKLOG))


def _bounded(listener: socket.socket) -> socket.socket:
    """Let the connections of a listener inherit a bound of what is received ahead."""
    # Linux doubles it for what it keeps beside the data
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return listener


def _add_if_possible(listeners: list[socket.socket], host: str, port: int) -> None:
    """Listen on another address if the machine has it. The port must be free there: clients may go there first."""
    try:
        listeners.append(_listener(host, port))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            for listener in listeners:
                listener.close()
            raise
