"""A client that does not say what it wants is not waited for, whatever it sends; one that does is left alone."""

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
    """One for all of them: whatever a connection sends, the next one is none the worse for it."""
    process = ServerProcess(tmp_path_factory.mktemp("connections") / "data", head_timeout=str(SECONDS))
    process.start()
    yield process
    process.close()


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """One answer, whole."""
    came = b""
    while b"\r\n\r\n" not in came or not came.endswith(b"}"):
        more = connection.recv(65536)
        assert more, came
        came += more
    return came


def is_closed_while(connection: socket.socket, sending: bytes) -> float:
    """Send this, over and over, until the other side has closed; returns the seconds until then."""
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
    pytest.fail("it is open still")


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (b"GET /he", b""), (HEAD, b"X-Slow: 1\r\n"), (b"", b"\r\n"), (HEAD + b"X-Slow: ", b"a")],
    ids=("silence", "part of a line", "a header now and then", "empty lines", "a header without an end"),
)
def test_a_head_that_does_not_come_whole_is_not_waited_for(
    connection: socket.socket, first: bytes, then: bytes
) -> None:
    connection.sendall(first)

    # uvicorn's own wait is for connections that are idle after an answer, and of 5 s
    assert is_closed_while(connection, then) >= SECONDS / 2


@pytest.mark.parametrize("then", [b"\r\n", HEAD[:5], b"X"], ids=("empty lines", "part of a line", "nonsense"))
def test_nor_is_the_next_one_after_an_answer(connection: socket.socket, then: bytes) -> None:
    connection.sendall(HEAD + b"\r\n")
    assert b" 200 OK" in answer(connection)

    is_closed_while(connection, then)


def test_a_body_that_nobody_waits_for_is_not_taken_for_ever(connection: socket.socket) -> None:
    connection.sendall(HEAD.replace(b"GET", b"POST") + b"Content-Length: 1000000000\r\n\r\n")
    assert b" 405 " in answer(connection)

    is_closed_while(connection, b"body")


def test_a_head_without_an_end_is_not_kept(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"X-Large: " + b"a" * MAX_HEAD_BYTES)

    assert is_closed_while(connection, b"") < PATIENCE / 2


def test_who_asks_again_and_again_and_who_waits_for_an_answer_are_left_alone(
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
            assert b" 200 OK" in answer(connection)

        stream.settimeout(0.1)
        with pytest.raises(TimeoutError):
            stream.recv(65536)


def test_a_large_body_is_not_taken_for_a_head(connection: socket.socket) -> None:
    body = b" " * (4 * MAX_HEAD_BYTES) + b"{}"
    head = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    for _ in range(2):
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b" 400 " in answer(connection)
