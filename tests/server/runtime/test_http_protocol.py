"""Limits on request heads: slow and oversized heads close the connection, other connections stay open."""

import socket
import time
from collections.abc import Iterator

import pytest

from server.runtime.http_protocol import MAX_HEAD_BYTES
from tests.support.server_process import PATIENCE, ServerProcess

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
SECONDS = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests: what one connection sends does not affect the next."""
    process = ServerProcess(tmp_path_factory.mktemp("connections") / "data", head_timeout=str(SECONDS))
    process.start()
    yield process
    process.close()


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        yield connection


def read_response(connection: socket.socket) -> bytes:
    """Read one complete response."""
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        more = connection.recv(65536)
        assert more, received
        received += more
    return received


def seconds_until_closed(connection: socket.socket, sending: bytes) -> float:
    """Send this repeatedly until the server closes the connection; returns the seconds until then."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - began < PATIENCE:
        try:
            connection.sendall(sending)
            if connection.recv(65536) == b"":
                return time.monotonic() - began
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return time.monotonic() - began
    pytest.fail("the connection is still open")


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (b"GET /he", b""), (HEAD, b"X-Slow: 1\r\n"), (b"", b"\r\n"), (HEAD + b"X-Slow: ", b"a")],
    ids=("silence", "part of a line", "a header now and then", "empty lines", "a header without an end"),
)
def test_an_incomplete_head_closes_the_connection_after_the_timeout(
    connection: socket.socket, first: bytes, then: bytes
) -> None:
    connection.sendall(first)

    # uvicorn's own timeout of 5 s applies only to connections that are idle after a response
    assert seconds_until_closed(connection, then) >= SECONDS / 2


@pytest.mark.parametrize("then", [b"\r\n", HEAD[:5], b"X"], ids=("empty lines", "part of a line", "nonsense"))
def test_an_incomplete_second_head_closes_the_connection_too(connection: socket.socket, then: bytes) -> None:
    connection.sendall(HEAD + b"\r\n")
    assert b" 200 OK" in read_response(connection)

    seconds_until_closed(connection, then)


def test_a_body_after_an_early_response_is_not_read_forever(connection: socket.socket) -> None:
    connection.sendall(HEAD.replace(b"GET", b"POST") + b"Content-Length: 1000000000\r\n\r\n")
    assert b" 405 " in read_response(connection)

    seconds_until_closed(connection, b"body")


def test_an_endless_head_closes_the_connection(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"X-Large: " + b"a" * MAX_HEAD_BYTES)

    assert seconds_until_closed(connection, b"") < PATIENCE / 2


def test_repeated_requests_and_a_long_response_keep_their_connections(
    server: ServerProcess, connection: socket.socket
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as stream:
        stream.sendall(HEAD.replace(b"/healthz", b"/api/events") + b"\r\n")
        assert b" 200 OK" in stream.recv(65536)

        began = time.monotonic()
        while time.monotonic() - began < 3 * SECONDS:
            connection.sendall(HEAD)
            time.sleep(SECONDS / 4)
            connection.sendall(b"\r\n")
            assert b" 200 OK" in read_response(connection)

        stream.settimeout(0.1)
        with pytest.raises(TimeoutError):
            stream.recv(65536)


def test_a_large_body_does_not_count_as_head(connection: socket.socket) -> None:
    body = b" " * (4 * MAX_HEAD_BYTES) + b"{}"
    head = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    for _ in range(2):
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b" 400 " in read_response(connection)
