"""The server listens where it was told, or says which option to change."""

import errno
import os
import socket
from typing import Any

import pytest

from server.core.settings.settings import Settings
from server.runtime.http.listeners import listen
from server.runtime.preflight import StartRefusedError

HAS_IPV6 = socket.has_dualstack_ipv6() and os.path.exists("/proc/net/if_inet6")  # noqa: PTH110


def listening(host: str, port: int = 0) -> list[tuple[int, str]]:
    found = listen(Settings(host=host, port=port, allow_anonymous=True))
    try:
        assert len({listener.getsockname()[1] for listener in found}) == 1
        return [(listener.family, listener.getsockname()[0]) for listener in found]
    finally:
        for listener in found:
            listener.close()


def test_an_address_is_listened_on() -> None:
    assert listening("127.0.0.1") == [(socket.AF_INET, "127.0.0.1")]


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["[::1]", "0:0:0:0:0:0:0:1"])
def test_an_ipv6_address_is_listened_on_in_any_spelling(host: str) -> None:
    assert listening(host) == [(socket.AF_INET6, "::1")]


def test_an_ipv4_address_within_ipv6_is_listened_on() -> None:
    assert listening("::ffff:127.0.0.1") == [(socket.AF_INET, "127.0.0.1")]


def test_localhost_is_both_addresses_as_far_as_the_machine_has_them() -> None:
    ipv6 = [(socket.AF_INET6, "::1")] if HAS_IPV6 else []

    assert listening("localhost") == [(socket.AF_INET, "127.0.0.1"), *ipv6]


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_a_port_that_is_taken_on_the_other_address_of_localhost_is_told() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartRefusedError, match="already in use"):
            listen(Settings(host="localhost", port=port))
        # the first one is not left open
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_any_ipv6_address_means_ipv4_too() -> None:
    (listener,) = listen(Settings(host="::", port=0, allow_anonymous=True))
    with listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=10).close()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EADDRINUSE, ""), "Address already in use. Another program uses this port. .* --port"),
        (OSError(errno.EACCES, ""), "Permission denied. Ports below 1024 need special rights. .* --port"),
        (OSError(errno.EADDRNOTAVAIL, ""), "Cannot assign requested address. This machine does not .* --host"),
        (OSError(errno.EAFNOSUPPORT, ""), "Address family not supported .* --host"),
        (OSError(errno.EIO, ""), "Input/output error. Choose other values with --host and --port"),
        (OSError(-2, "Name or service not known (while attempting to bind)"), "no address is known for this name"),
        (socket.gaierror(-2, "Name or service not known"), "no address is known for this name. .* --host"),
        (OverflowError(), "there is no port 8000. Choose another with --port"),
    ],
)
def test_every_failure_names_the_option(monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_server", refuse)

    with pytest.raises(StartRefusedError, match=sentence):
        listen(Settings(host="192.0.2.1", port=8000, allow_anonymous=True))


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartRefusedError, match="already in use"):
        listen(Settings(host="127.0.0.1", port=taken.getsockname()[1]))
