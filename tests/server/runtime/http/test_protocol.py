"""Limits on request heads: slow and oversized heads close the connection, other connections stay open."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import psutil
import pytest
import uvicorn
from uvicorn.server import ServerState

from server.runtime.http.active_requests import MAX_ACTIVE
from server.runtime.http.connections import ConnectionLimits
from server.runtime.http.forwarded import TrustedProxies
from server.runtime.http.protocol import (
    CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_HEAD_BYTES,
    MAX_PIPELINED,
    MAX_UNREAD_BODY,
    protocol_class,
)
from tests.support.server_process import CLEAN_ENDS, ENDLESS, PATIENCE, ServerProcess, eventually

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


@pytest.mark.parametrize(
    ("path", "headers", "status", "limit"),
    [
        (b"/healthz", b"X: 1\r\n" * 99, b"200", b""),
        (b"/healthz", b"X: 1\r\n" * 100, b"400", b"at most 100 headers"),
        (b"/healthz", b"X:\r\n" * 10_000, b"400", b"at most 100 headers"),
        (b"/healthz", b"Cookie: " + b"a=b; " * 5000 + b"\r\n", b"200", b""),
        (b"/healthz", b"X: " + b"y" * 2 * MAX_HEAD_BYTES + b"\r\n", b"400", b"at most 32768 bytes"),
        (b"/healthz", b"no header\r\n", b"400", b"not valid HTTP"),
        (b"/healthz?" + b"&".join([b"a=1"] * 100), b"", b"200", b""),
        (b"/healthz?" + b"&".join([b"a=1"] * 101), b"", b"400", b"at most 100 query parameters"),
        (b"/healthz?" + b"&" * 30_000, b"", b"400", b"at most 100 query parameters"),
    ],
    ids=("many", "too many", "very many", "cookies", "large", "no", "names", "too many names", "very many names"),
)
def test_headers_and_query_parameters_have_a_limit(
    connection: socket.socket, path: bytes, headers: bytes, status: bytes, limit: bytes
) -> None:
    connection.sendall(HEAD.replace(b"/healthz", path) + headers + b"\r\n")

    answer = read_response(connection)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert limit in answer
    if status == b"400":
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["type"], connection.recv(1)) == ("invalid_params", b"")


def test_a_body_that_is_not_http_is_refused_too(connection: socket.socket) -> None:
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    connection.sendall(post + b"Transfer-Encoding: chunked\r\n\r\n")
    time.sleep(0.2)
    connection.sendall(b"no size\r\n")

    answer = read_response(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"not valid HTTP" in answer
    assert connection.recv(1) == b""


@pytest.mark.parametrize("then", [b"no HTTP\r\n\r\n", HEAD + b"X: 1\r\n" * 200], ids=("no HTTP", "headers"))
def test_what_is_refused_after_requests_ends_the_connection_after_their_answers(
    connection: socket.socket, then: bytes
) -> None:
    connection.sendall((HEAD + b"\r\n") * 2 + then)

    received = read_to_end(connection)
    assert received.count(b"HTTP/1.1 200 OK") == received.count(b"HTTP/1.1 ") == 2


def test_a_body_in_very_many_chunks_is_refused(connection: socket.socket) -> None:
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    connection.sendall(post + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * (2 * MAX_CHUNKS))

    answer = read_response(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"in larger parts: 256 bytes or more" in answer


def test_a_large_body_may_arrive_in_many_parts(connection: socket.socket) -> None:
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    body = b'{"x":"%s"}' % (b"y" * 512_000)
    parts = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
    assert len(parts) > MAX_CHUNKS
    connection.sendall(post + b"Transfer-Encoding: chunked\r\n\r\n")
    for part in [*parts, b""]:
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))

    answer = read_response(connection)
    assert b"model must be given" in answer


def test_what_follows_a_body_in_chunks_are_no_headers(connection: socket.socket) -> None:
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Transfer-Encoding: chunked\r\n\r\n"
    connection.sendall(post + b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n")

    assert read_response(connection).startswith(b"HTTP/1.1 415 ")


def test_a_body_behind_a_request_that_waits_takes_little_memory(server: ServerProcess) -> None:
    waits = json.dumps({**ENDLESS, "seed": 1}).encode()
    first = HEAD.replace(b"GET /healthz", b"POST /api/ai/videos/generate") + b"Content-Type: application/json\r\n"
    then = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Length: 10000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as greedy:
        greedy.sendall(first + b"Content-Length: %d\r\n\r\n" % len(waits) + waits)
        time.sleep(SECONDS)
        greedy.sendall(then)
        assert seconds_until_closed(greedy, b" " * 2**16) < PATIENCE / 2
    for row in server.listed("processing"):
        server.http.delete(f"/queue/{row['generation_id']}")


def test_what_is_no_origin_is_refused_and_what_is_no_http_is_not_logged(server: ServerProcess) -> None:
    answer = httpx.post(f"{server.url}/api/ai/queue", headers={"Origin": "http://["}, json={}, timeout=PATIENCE)
    assert answer.status_code == 400
    for sent in (b"\x00\r\n\r\n", HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as other:
            other.sendall(sent)
            assert b"HTTP/1.1 " in read_response(other)

    assert "Traceback" not in server.log_text()
    assert "Invalid HTTP" not in server.log_text()
    assert "upgrade" not in server.log_text()


def test_a_refused_connection_is_closed_even_if_its_client_sends_on(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"X: 1\r\n" * 200)

    assert seconds_until_closed(connection, b"X: 1\r\n") < PATIENCE / 2


def test_repeated_requests_and_a_long_response_keep_their_connections(
    server: ServerProcess, connection: socket.socket
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as stream:
        stream.sendall(HEAD.replace(b"/healthz", b"/api/events") + b"\r\n")
        received = b""
        while b"\nid: 0\n" not in received:
            received += stream.recv(65536)
        assert b" 200 OK" in received

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


def test_requests_sent_ahead_are_answered_in_order(connection: socket.socket) -> None:
    paths = [f"/healthz?number={number}".encode() for number in range(MAX_PIPELINED)]
    connection.sendall(b"".join(HEAD.replace(b"/healthz", path) + b"\r\n" for path in paths))

    answers = b""
    while answers.count(b"HTTP/1.1 200 OK") < len(paths):
        answers += connection.recv(65536)


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65536):
        received += more
    return received


def test_of_more_requests_sent_ahead_the_first_are_answered(connection: socket.socket) -> None:
    connection.sendall((HEAD + b"\r\n") * (3 * MAX_PIPELINED))

    received = read_to_end(connection)

    # the first one does not wait for others
    assert received.count(b"HTTP/1.1 200 OK") == MAX_PIPELINED + 1
    assert received.count(b"connection: close") == 1


def test_the_body_of_the_last_request_sent_ahead_is_read(connection: socket.socket) -> None:
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue")
    last = post + b"Content-Type: application/json\r\nContent-Length: 16\r\n\r\n" + b'{"model": "none"'
    connection.sendall((HEAD + b"\r\n") * MAX_PIPELINED + last)
    time.sleep(SECONDS / 2)
    connection.sendall(b"\r\n" * 10)

    answers = read_to_end(connection).split(b"HTTP/1.1 ")
    assert answers[-1].startswith(b"400 ")
    assert b"not valid JSON" in answers[-1]


def test_many_connections_at_once_are_all_answered_and_those_that_end_are_forgotten(server: ServerProcess) -> None:
    opened = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(120)]
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    try:
        for number, one in enumerate(opened):
            # every third waits for its body, and every third is gone when its turn comes
            one.sendall(post + b"Content-Length: 9\r\n\r\n" if number % 3 == 0 else HEAD + b"\r\n")
            if number % 3 == 1:
                one.close()
        for one in opened[2::3]:
            assert b" 200 OK" in read_response(one)
        for one in opened[::3]:
            one.sendall(b'{"a": []}')
            assert b" 400 " in read_response(one)
    finally:
        for one in opened:
            one.close()
    assert httpx.get(f"{server.url}/healthz", timeout=PATIENCE).status_code == 200


def test_bodies_that_do_not_arrive_delay_nobody(server: ServerProcess) -> None:
    half = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + b"Content-Type: application/json\r\n"
    with ExitStack() as opened:
        for _ in range(8 * MAX_ACTIVE):
            one = opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            one.sendall(half + b"Content-Length: 9\r\n\r\n")
        rest = one
        other = opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
        other.sendall(HEAD + b"\r\n")
        assert b" 200 OK" in read_response(other)
        # and it is answered when its body comes
        rest.sendall(b"not json!")
        assert b" 400 " in read_response(rest)


async def test_behind_a_proxy_each_client_has_its_own_turns() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    config = uvicorn.Config(app, proxy_headers=False, lifespan="off")
    config.load()
    state = ServerState()
    protocols = protocol_class(SECONDS, ConnectionLimits(100, 100), TrustedProxies([ip_network("192.0.2.9")]))
    for peer, told in (("192.0.2.9", "192.0.2.1"), ("192.0.2.9", "192.0.2.2, 192.0.2.9"), ("192.0.2.3", "192.0.2.4")):
        transport = Mock(spec=asyncio.Transport, **{"is_closing.return_value": False})
        transport.get_extra_info = {"peername": (peer, 1), "sockname": ("127.0.0.1", 1)}.get
        protocol = protocols(config=config, server_state=state, app_state={})
        protocol.connection_made(transport)
        protocol.data_received(HEAD + b"X-Forwarded-For: " + told.encode() + b"\r\n\r\n")
        # the proxy's turn may be over
        await asyncio.sleep(0)

    # who is no proxy is not believed
    assert [*protocols.active_requests._active] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    for task in state.tasks:
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)


def test_a_client_that_sends_no_more_is_answered(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n" + HEAD + b"\r\n")
    connection.shutdown(socket.SHUT_WR)

    assert read_to_end(connection).count(b" 200 OK") == 2


def test_of_a_body_that_goes_on_after_the_answer_little_is_read(connection: socket.socket) -> None:
    length = b"Content-Length: 9999999999\r\n"
    connection.sendall(HEAD.replace(b"GET /healthz", b"POST /api/ai/queue") + length + b"\r\n")
    assert b" 415 " in read_response(connection)

    sent = 0
    with pytest.raises(ConnectionError):
        while sent < 10**9:
            connection.sendall(b"x" * 65536)
            sent += 65536
    assert MAX_UNREAD_BODY <= sent < 4 * MAX_UNREAD_BODY


@pytest.mark.parametrize("keep_alive", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_gets_no_chunks(connection: socket.socket, server: ServerProcess, keep_alive: bytes) -> None:
    connection.sendall(b"GET /api/events HTTP/1.0\r\nHost: localhost\r\n" + keep_alive + b"\r\n")
    received = b""
    while not received.endswith(b"id: 0\n\n"):
        received += connection.recv(65536)

    head, body = received.split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"id: 0\n\n"


def test_http_1_0_answers_of_known_length_are_whole(connection: socket.socket) -> None:
    connection.sendall(b"GET /openapi.json HTTP/1.0\r\nHost: localhost\r\n\r\n")

    head, body = read_to_end(connection).split(b"\r\n\r\n", 1)
    assert f"content-length: {len(body)}" in head.decode()
    assert json.loads(body)["openapi"]


def test_more_requests_sent_ahead_close_the_connection_and_take_no_memory(server: ServerProcess) -> None:
    requests = (HEAD + b"\r\n") * 2000
    before = rss(server)
    closed = 0
    began = time.monotonic()
    while time.monotonic() - began < 3.0:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as greedy:
            try:
                for _ in range(100):
                    greedy.sendall(requests)
            except OSError:
                closed += 1

    assert closed > 3
    assert rss(server) - before < 64 * 2**20
    assert httpx.get(f"{server.url}/healthz", timeout=PATIENCE).status_code == 200


def test_a_client_that_reads_nothing_holds_no_more_than_one_answer(server: ServerProcess) -> None:
    before = rss(server)
    opened = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(8)]
    try:
        for one in opened:
            # as many as are not refused, each with an answer of half a megabyte
            one.sendall((HEAD.replace(b"/healthz", b"/openapi.json") + b"\r\n") * MAX_PIPELINED)
        time.sleep(2.0)
        assert rss(server) - before < 64 * 2**20
    finally:
        for one in opened:
            one.close()


def test_a_half_sent_body_and_a_client_that_does_not_read_leave_no_traceback_at_a_stop(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    server.start()
    post = HEAD.replace(b"GET /healthz", b"POST /api/ai/queue")
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as half,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as silent,
    ):
        half.sendall(post + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n" + b'{"model"')
        silent.sendall((HEAD.replace(b"/healthz", b"/openapi.json") + b"\r\n") * MAX_PIPELINED)
        time.sleep(1.0)
        assert server.process is not None
        server.process.terminate()
        answer = read_to_end(half)
        assert server.stop() in CLEAN_ENDS

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"The server is stopping. Send this request again" in answer
    assert "Traceback" not in server.log_text()


def test_requests_of_one_key_have_a_limit(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", api_keys="one,two", max_requests_per_key="3")
    server.start()
    streams = HEAD.replace(b"/healthz", b"/api/events") + b"Authorization: Bearer one\r\n\r\n"
    opened = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(3)]
    try:
        for one in opened:
            one.sendall(streams)
            assert b" 200 OK" in one.recv(65536)
        models = f"{server.url}/api/ai/queue"
        refused = httpx.get(models, headers={"Authorization": "Bearer one"}, timeout=PATIENCE)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "queue_full")
        assert "3 requests with this key" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "5"
        assert httpx.get(models, headers={"Authorization": "Bearer two"}, timeout=PATIENCE).status_code == 200

        opened.pop().close()
        eventually(lambda: httpx.get(models, headers={"Authorization": "Bearer one"}).raise_for_status(), server)
    finally:
        for one in opened:
            one.close()
        server.close()


def test_connections_of_one_address_have_a_limit(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", max_connections_per_address="3")
    server.start()
    opened: list[socket.socket] = []
    try:
        server.http.close()
        while len(opened) < 3:
            # until the server has noticed that the test's own connections are closed
            eventually(lambda: ask(server, opened), server)
        with pytest.raises(AssertionError):
            eventually(lambda: ask(server, opened), patience=0.5)
        assert httpx.get(f"{server.url}/healthz").status_code == 503

        opened.pop().close()
        eventually(lambda: ask(server, opened), server)
    finally:
        for one in opened:
            one.close()
        server.close()


def ask(server: ServerProcess, opened: list[socket.socket]) -> bool:
    """Send a request on a new connection, and keep that open if it is answered."""
    one = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    try:
        one.sendall(HEAD + b"\r\n")
        if b" 200 " in one.recv(65536):
            opened.append(one)
            return True
    except ConnectionError:
        pass
    one.close()
    return False


def rss(server: ServerProcess) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)
