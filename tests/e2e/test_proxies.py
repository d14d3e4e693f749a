"""Behind nginx and Caddy with the examples of configs/proxy: at the root and under a path everything works."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, expect

from paddock import Client
from tests.support.browser import BrowserPage, chromium
from tests.support.proxies import EXAMPLES, Caddy, Nginx, Proxy
from tests.support.server_process import ENDLESS, MODEL, PATIENCE, SMALL, ServerProcess, eventually, free_port
from tests.support.workbench import is_submission

KINDS = [(Nginx, ""), (Nginx, "/paddock"), (Caddy, ""), (Caddy, "/paddock")]
UNDER_A_PATH = KINDS[1::2]
MADE_UP = {
    "X-Forwarded-For": "192.0.2.66",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=192.0.2.66;host=evil.example;proto=http",
}


def named(kind: tuple[type[Proxy], str]) -> str:
    return f"{kind[0].__name__} {kind[1] or '/'}"


@pytest.fixture(scope="module", params=KINDS, ids=named)
def proxy(
    request: pytest.FixtureRequest, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """Each proxy in front of the shared server."""
    kind, prefix = request.param
    proxy = kind(tmp_path_factory.mktemp("proxy") / "files", server.port, prefix)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def http(proxy: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(verify=proxy.trust, timeout=PATIENCE, base_url=proxy.url) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def finished(http: httpx.Client, **changes: Any) -> dict[str, Any]:
    """The row of a small generation that has been made through the proxy."""
    answer = http.post("/api/ai/queue", json={**SMALL, **changes})
    assert answer.status_code == 200, answer.text
    path = f"/api/ai/queue/{answer.json()['generations'][0]['generation_id']}"
    eventually(lambda: http.get(path).json()["status"] == "succeeded")
    return dict(http.get(path).json())


def test_links_lead_through_the_proxy(proxy: Proxy, http: httpx.Client) -> None:
    url = finished(http)["result_url"]
    assert url.startswith(f"{proxy.url}/api/files/")

    whole = http.get(url)
    assert (whole.status_code, whole.content[4:8]) == (200, b"ftyp")
    head = http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    part = http.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
    assert http.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert http.get(url[:-1] + ("a" if url[-1] != "a" else "b")).status_code == 404

    sync = http.post("/api/ai/videos/generate", json=SMALL)
    assert sync.json()["video_url"].startswith(f"{proxy.url}/api/files/")
    assert http.get(sync.json()["video_url"]).status_code == 200
    assert http.get("/openapi.json").json()["servers"] == [{"url": proxy.prefix or "/"}]


def test_redirects_stay_below_the_path(proxy: Proxy, http: httpx.Client) -> None:
    for path, target in {
        "/ai/workbench?model=a": "/?model=a",
        "/ai/workbench": "/",
        "/api/ai/queue/": "/api/ai/queue",
        "/api/ai/queue/?status=failed": "/api/ai/queue?status=failed",
    }.items():
        answer = http.get(path, follow_redirects=True)
        assert (answer.status_code, str(answer.url)) == (200, proxy.url + target)
        assert "://" not in answer.history[0].headers["location"]
    if proxy.prefix:
        answer = http.get(proxy.url, follow_redirects=True)
        assert (answer.status_code, str(answer.url)) == (200, proxy.url + "/")
        assert httpx.get(f"https://localhost:{proxy.port}/healthz", verify=proxy.trust).status_code == 404


def test_what_a_client_makes_up_changes_nothing(proxy: Proxy, http: httpx.Client) -> None:
    row = finished(http)

    for headers in (MADE_UP, {name: f'" //{value}\\' for name, value in MADE_UP.items()}):
        again = http.get(f"/api/ai/queue/{row['generation_id']}", headers=headers)
        assert again.status_code == 200
        assert again.json()["result_url"].startswith(f"{proxy.url}/api/files/")
        assert http.get("/openapi.json", headers=headers).text == http.get("/openapi.json").text
        assert "evil" not in http.get("/api/ai/queue/", headers=headers).headers["location"]
    refused = http.get("/api/ai/queue", headers={"Host": "evil.example"})
    assert "evil.example" not in refused.text


@pytest.mark.parametrize("size", [1_000_001, 5_000_000, 64_000_000])
def test_too_large_a_body_is_refused_by_the_server_itself(http: httpx.Client, size: int) -> None:
    answer = http.post("/api/ai/queue", content=b" " * size, headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "payload_too_large"


def test_a_body_of_the_largest_size_is_accepted(http: httpx.Client) -> None:
    body = json.dumps(SMALL).encode()
    content = body + b" " * (1_000_000 - len(body))

    answer = http.post("/api/ai/queue", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    http.delete(f"/api/ai/queue/{answer.json()['generations'][0]['generation_id']}")


def test_no_connection_is_upgraded(http: httpx.Client) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }

    assert http.get("/api/ai/models", headers=headers).status_code == 200
    assert http.get("/nope", headers=headers).status_code == 404


def test_events_arrive_one_by_one(proxy: Proxy, http: httpx.Client) -> None:
    with http.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id: ")
        id_ = http.post("/api/ai/queue", json=ENDLESS).json()["generations"][0]["generation_id"]
        for line in lines:
            if line.startswith("data: ") and id_ in line:
                break
        told = json.loads(line.removeprefix("data: "))
        # it came while the video was being made: nobody had collected events until there were enough
        assert http.get(f"/api/ai/queue/{id_}").json()["status"] == "processing"
        if told.get("preview_url"):
            assert told["preview_url"].startswith(f"{proxy.url}/api/ai/queue/{id_}/preview")
        http.delete(f"/api/ai/queue/{id_}")
        id_ = http.post("/api/ai/queue", json=SMALL).json()["generations"][0]["generation_id"]
        for line in lines:
            if line.startswith("data: ") and id_ in line and '"succeeded"' in line:
                break
        assert json.loads(line.removeprefix("data: "))["url"].startswith(f"{proxy.url}/api/files/")


def test_the_python_client_works(proxy: Proxy, tmp_path: Path) -> None:
    with Client(proxy.url, transport=httpx.HTTPTransport(verify=proxy.trust)) as client:
        asked = {name: value for name, value in SMALL.items() if name not in ("model", "prompt")}
        video = client.generate(SMALL["prompt"], model=MODEL, **asked)
        assert video.result_url is not None
        assert video.result_url.startswith(f"{proxy.url}/api/files/")
        client.download(video, tmp_path / "ox.mp4")
    assert (tmp_path / "ox.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.fixture
def visit(browser: Browser, start_server: Callable[..., ServerProcess]) -> Iterator[Callable[[str], BrowserPage]]:
    """Visitors of a page; none may have met an error or another host. They leave before the test's own servers stop."""
    visitors: list[BrowserPage] = []

    def make(base: str) -> BrowserPage:
        visitors.append(BrowserPage(browser, base, ignore_https_errors=True))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.context.close()
        assert visitor.errors == []
        assert visitor.elsewhere == []


def make_a_video(visitor: BrowserPage) -> str:
    """Make one with the page, play it and download it; return the code in the API tab."""
    page = visitor.open(f"/ai/workbench?model={MODEL}")
    page.locator("#form details summary").click()
    page.get_by_label("Prompt", exact=True).fill("a red circle moving right")
    for label, value in {"Height": 64, "Width": 64, "Frames": 5, "Steps": 2}.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    with page.expect_response(lambda answer: is_submission(answer.request)) as answer:
        page.get_by_role("button", name="Generate", exact=True).click()
    id_ = answer.value.json()["generations"][0]["generation_id"]
    card = page.locator(f"#stage[data-id='{id_}']")
    expect(card.locator("video")).to_be_visible()
    page.wait_for_function(
        "video => video.currentTime > 0 && video.videoWidth === 64", arg=card.locator("video").element_handle()
    )
    with page.expect_download() as download:
        card.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator(f"#stage[data-id='{id_}'] video")).to_be_visible()
    page.get_by_role("tab", name="API", exact=True).click()
    return page.locator("#api-code").inner_text()


def test_the_page_makes_a_video(proxy: Proxy, visit: Callable[[str], BrowserPage]) -> None:
    code = make_a_video(visit(proxy.url))

    assert f"curl -X POST {proxy.url}/api/ai/videos/generate" in code


def test_the_page_works_at_its_own_address_when_links_name_another(
    visit: Callable[[str], BrowserPage], start_server: Callable[..., ServerProcess]
) -> None:
    direct = start_server(public_url="https://videos.example/api/paddock")

    make_a_video(visit(direct.url))
    assert direct.listed("succeeded")[0]["result_url"].startswith("https://videos.example/api/paddock/api/files/")


def test_idle_streams_stay_open(server: ServerProcess, tmp_path: Path) -> None:
    """A comment every 15 s comes through: no proxy closes what is silent for less than a minute."""

    def comes(proxy: Proxy) -> bool:
        with (
            httpx.Client(verify=proxy.trust, timeout=PATIENCE) as client,
            client.stream("GET", f"{proxy.url}/api/events") as stream,
        ):
            return any(line.startswith(":") and not line[1:].isspace() for line in stream.iter_lines())

    with ExitStack() as stack:
        proxies = started(stack, tmp_path, server.port)
        with ThreadPoolExecutor() as threads:
            assert list(threads.map(comes, proxies)) == [True] * len(proxies)


def started(stack: ExitStack, folder: Path, upstream: int) -> list[Proxy]:
    """A proxy of each kind, stopped with the stack."""
    proxies = [kind(folder / kind.__name__, upstream, prefix) for kind, prefix in UNDER_A_PATH]
    for proxy in proxies:
        stack.callback(proxy.stop)
        proxy.start()
    return proxies


def listening(stack: ExitStack, handler: type[BaseHTTPRequestHandler]) -> int:
    """Start something else than Paddock for proxies to ask; return its port. It ends with the stack."""
    upstream = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
    # a proxy may keep its connections for longer than this test
    upstream.daemon_threads = True
    serving = threading.Thread(target=upstream.serve_forever)
    serving.start()
    stack.callback(serving.join)
    stack.callback(upstream.shutdown)
    return upstream.server_port


class Silent(BaseHTTPRequestHandler):
    """Answers after more than the minute that is nginx's own patience."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        time.sleep(65)
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"done")

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.mark.heavy
def test_a_synchronous_request_may_take_longer_than_a_minute(tmp_path: Path) -> None:
    with ExitStack() as stack:
        proxies = started(stack, tmp_path, listening(stack, Silent))

        def ask(proxy: Proxy) -> str:
            return httpx.post(f"{proxy.url}/api/ai/videos/generate", verify=proxy.trust, timeout=PATIENCE).text

        with ThreadPoolExecutor() as threads:
            assert list(threads.map(ask, proxies)) == ["done"] * len(proxies)


class Counting(BaseHTTPRequestHandler):
    """Counts the connections on which it is asked."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        Counting.connections += 1

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write no log."""


def test_connections_to_the_server_are_used_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for proxy in started(stack, tmp_path, listening(stack, Counting)):
            before = Counting.connections
            with httpx.Client(verify=proxy.trust, timeout=PATIENCE) as client:
                for _ in range(20):
                    assert client.get(f"{proxy.url}/healthz").status_code == 200
            # a busy machine may let one idle too long
            assert 1 <= Counting.connections - before < 10


@pytest.mark.parametrize("kind", [Nginx, Caddy])
def test_a_request_that_reaches_no_server_is_sent_to_another_one(
    kind: type[Proxy], server: ServerProcess, tmp_path: Path
) -> None:
    proxy = kind(tmp_path / "files", [free_port(), server.port])
    try:
        proxy.start()
        with httpx.Client(verify=proxy.trust, timeout=PATIENCE, base_url=proxy.url) as client:
            for _ in range(20):
                assert client.get("/healthz").status_code == 200
            # no body is sent twice
            ids = {client.post("/api/ai/queue", json=SMALL).json()["generations"][0]["generation_id"] for _ in range(6)}
            assert len(ids) == 6
            for id_ in ids:
                eventually(lambda id_=id_: client.get(f"/api/ai/queue/{id_}").json()["status"] == "succeeded")
    finally:
        proxy.stop()


def test_proxies_let_go_of_a_connection_before_the_server_does() -> None:
    """A request into a connection that the server has just closed would be answered 502."""
    closes = uvicorn.Config("app").timeout_keep_alive
    for name, setting in (("nginx.conf", r"keepalive_timeout (\d+)s;"), ("Caddyfile", r"keepalive (\d+)s")):
        (seconds,) = re.findall(setting, (EXAMPLES / name).read_text())
        assert int(seconds) < closes


@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.1"], ids=("of a proxy", "of a client"))
def test_the_limit_of_connections_is_for_each_client(start_server: Callable[..., ServerProcess], trusted: str) -> None:
    server = start_server(max_connections_per_address="4", trusted_proxies=trusted)

    def status(stack: ExitStack, client: str) -> int:
        head = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n\r\n"
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
        connection.sendall(head.encode())
        return int(connection.recv(65536).split()[1])

    with ExitStack() as stack:
        of_one = [status(stack, "203.0.113.1") for _ in range(5)]
        of_others = [status(stack, f"203.0.113.{number}") for number in range(2, 9)]
    assert of_one == [200] * 4 + [503]
    # who is not trusted has one address, whatever it tells
    assert of_others == ([200] * 7 if trusted == "127.0.0.1" else [503] * 7)
    # those that are closed count no more
    eventually(lambda: asks_again(server))


def asks_again(server: ServerProcess) -> bool:
    with httpx.stream("GET", f"{server.url}/api/events", headers={"X-Forwarded-For": "203.0.113.1"}) as answer:
        return answer.status_code == 200


@pytest.mark.parametrize("kind", UNDER_A_PATH, ids=named)
def test_a_client_cannot_have_its_connections_counted_for_others(
    start_server: Callable[..., ServerProcess], tmp_path: Path, kind: tuple[type[Proxy], str]
) -> None:
    server = start_server(max_connections_per_address="4")
    proxy = kind[0](tmp_path / "proxy", server.port, kind[1])
    with ExitStack() as stack:
        stack.callback(proxy.stop)
        proxy.start()
        client = stack.enter_context(httpx.Client(verify=proxy.trust, timeout=PATIENCE))
        statuses = [
            stack.enter_context(
                client.stream("GET", f"{proxy.url}/api/events", headers={"X-Forwarded-For": f"203.0.113.{number}"})
            ).status_code
            for number in range(6)
        ]

    assert statuses[:4] == [200] * 4
    # here the proxy has the client's address: its connection is refused, and it may be closed before the answer is read
    assert set(statuses[4:]) <= {502, 503}
