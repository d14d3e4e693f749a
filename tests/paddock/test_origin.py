"""The API key reaches the server's own origin only; this machine's servers are reached without a proxy."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from paddock import AsyncClient, Client, InvalidArgumentError, UnexpectedResponseError, UnreachableError
from tests.paddock.scripted import row
from tests.support.server_process import free_port


class LoopbackServer:
    """A server with a status, headers and body for each path, which records the API keys it receives."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.keys: dict[str, str | None] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.keys[self.path] = self.headers["Authorization"]
                status, headers, body = server.answers[self.path]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def finished(self, result_url: str) -> None:
        """Serve a finished generation, with its video at a URL."""
        body = json.dumps(row("succeeded", result_url=result_url)).encode()
        self.answers["/api/ai/queue/one"] = (200, {"Content-Type": "application/json"}, body)

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def servers() -> Iterator[tuple[LoopbackServer, LoopbackServer]]:
    """The client's server, and another one on another port."""
    pair = LoopbackServer(), LoopbackServer()
    yield pair
    for each in pair:
        each.close()


VIDEO = (200, {"Content-Type": "video/mp4"}, b"video")


async def test_a_result_elsewhere_is_fetched_without_the_key(
    connect: Callable[..., Any], servers: tuple[LoopbackServer, LoopbackServer], tmp_path: Path
) -> None:
    ours, other = servers
    other.answers["/video"] = VIDEO
    ours.finished(f"{other.url}/video")

    await connect(ours.url, "secret").download("one", tmp_path / "ox.mp4")

    assert (tmp_path / "ox.mp4").read_bytes() == b"video"
    assert ours.keys == {"/api/ai/queue/one": "Bearer secret"}
    assert other.keys == {"/video": None}


async def test_a_redirect_elsewhere_is_followed_without_the_key(
    connect: Callable[..., Any], servers: tuple[LoopbackServer, LoopbackServer], tmp_path: Path
) -> None:
    ours, other = servers
    ours.finished("/api/files/video")
    ours.answers["/api/files/video"] = (307, {"Location": f"{other.url}/video"}, b"")
    # a name of the same machine is another origin too
    other.answers["/video"] = (302, {"Location": ours.url.replace("127.0.0.1", "localhost") + "/again"}, b"")
    ours.answers["/again"] = VIDEO

    await connect(ours.url, "secret").download("one", tmp_path / "ox.mp4")

    assert (tmp_path / "ox.mp4").read_bytes() == b"video"
    assert ours.keys == {"/api/ai/queue/one": "Bearer secret", "/api/files/video": "Bearer secret", "/again": None}
    assert other.keys == {"/video": None}


@pytest.mark.parametrize("method", ["get", "cancel"])
async def test_a_redirected_call_is_an_error(
    connect: Callable[..., Any], servers: tuple[LoopbackServer, LoopbackServer], method: str
) -> None:
    ours, other = servers
    ours.answers["/api/ai/queue/one"] = (308, {"Location": f"{other.url}/api/ai/queue/one"}, b"")

    with pytest.raises(UnexpectedResponseError, match=f"redirects to {other.url}"):
        await getattr(connect(ours.url, "secret"), method)("one")

    assert other.keys == {}


async def test_this_machine_is_reached_without_a_proxy(
    connect: Callable[..., Any],
    servers: tuple[LoopbackServer, LoopbackServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    ours, _ = servers
    ours.finished("/")

    assert (await connect(ours.url).get("one")).id == "one"
    assert (await connect(ours.url.replace("127.0.0.1", "localhost")).get("one")).id == "one"
    # other hosts are reached through the proxy, which is not there
    with pytest.raises(UnreachableError):
        await connect("http://192.0.2.1").get("one")


BROKEN = [
    {"ALL_PROXY": "socks9://127.0.0.1:1080"},
    {"HTTPS_PROXY": "http://proxy:port"},
    {"HTTP_PROXY": "http://proxy.example", "NO_PROXY": "[::1],fe80::/10"},
    {"SSL_CERT_FILE": "/nowhere/certificates.pem"},
]


@pytest.mark.parametrize("environment", BROKEN, ids=", ".join)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_an_environment_that_cannot_be_used_is_explained_and_matters_to_remote_servers_only(
    kind: type[Client | AsyncClient], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    for url in ("http://localhost:8000", "http://[::1]:8000", None):
        kind(url)
    with pytest.raises(InvalidArgumentError, match=r"HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE"):
        kind("https://paddock.example")


def test_a_socks_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{free_port()}")

    with Client("http://paddock.example") as client, pytest.raises(UnreachableError, match="Connection refused"):
        client.get("one")
