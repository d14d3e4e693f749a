"""The sockets that the server listens on."""

import errno
import os
import socket
from contextlib import suppress

from server.core.settings import ServerSettings
from server.runtime.preflight import StartRefusedError

_BACKLOG = 2048

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
            return [both]
        first, *others = ("127.0.0.1", "::1") if host == "localhost" else (host,)
        listeners = [_listener(first, port)]
    except socket.gaierror as error:
        raise StartRefusedError(
            f"Cannot listen on {host} port {port}: no address is known for this name. Choose another with --host."
        ) from error
    except OSError as error:
        code = error.errno or 0
        advice = _ADVICE.get(code, "Choose other values with --host and --port.")
        raise StartRefusedError(f"Cannot listen on {host} port {port}: {os.strerror(code)}. {advice}") from error
    except OverflowError as error:
        raise StartRefusedError(
            f"Cannot listen on {host}: there is no port {port}. Choose another with --port."
        ) from error
    # the port that was chosen, if it was 0
    port = listeners[0].getsockname()[1]
    for other in others:
        # a machine may have no IPv6
        with suppress(OSError):
            listeners.append(_listener(other, port))
    return listeners


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)
