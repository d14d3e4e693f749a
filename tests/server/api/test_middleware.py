"""The browser guard: cross-site writes and unknown host names are refused, other requests are served."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from server.core.settings.settings import Settings
from server.runtime.app import create_app

JSON = {"Content-Type": "application/json"}
BODY = '{"model": "no-such-model", "prompt": "an ox"}'
NOT_FOUND = 404
"""Status of a request for that model that passes the guard."""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """A function that starts an application with the given settings."""
    running: list[Any] = []

    async def build(**settings: Any) -> FastAPI:
        built = create_app(Settings(data_dir=tmp_path / str(len(running)), demo=True, **settings))
        context = built.router.lifespan_context(built)
        await context.__aenter__()
        running.append(context)
        return built

    yield build
    for context in running:
        await context.__aexit__(None, None, None)


async def request(
    app: FastAPI, method: str = "POST", path: str = "/api/ai/queue", base: str = "http://localhost:8000", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        content = BODY if method == "POST" else None
        return await client.request(method, base + path, content=content, headers={**JSON, **named})


@pytest.mark.parametrize(
    ("headers", "is_served"),
    [
        ({}, True),
        ({"Host": "localhost"}, True),
        ({"Host": "LOCALHOST:8000"}, True),
        ({"Host": "127.0.0.1:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
        ({"Host": "192.168.1.5:8000"}, True),
        ({"Host": "gpu.lan:8000"}, True),
        ({"Host": "videos.example"}, True),
        ({"Host": "evil.example:8000"}, False),
        ({"Host": "localhost.evil.example"}, False),
        ({"Host": "evil.example@localhost"}, False),
        ({"Host": "localhost/../evil"}, False),
        ({"Host": "localhost:port"}, False),
        ({"Host": ""}, False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_host_name_is_refused(
    app: Callable[..., Any], headers: dict[str, str], is_served: bool, method: str
) -> None:
    served = await app(allowed_hosts=["gpu.lan"], public_url="https://videos.example/paddock")

    answer = await request(served, method, **headers)

    assert answer.status_code == ((NOT_FOUND if method == "POST" else 200) if is_served else 400)
    if not is_served:
        assert answer.json()["error"]["type"] == "invalid_params"
        assert "allowed_hosts" in answer.json()["error"]["detail"]
        assert "evil" not in answer.text


async def test_with_api_keys_any_host_name_is_accepted_unless_names_are_listed(app: Callable[..., Any]) -> None:
    keyed = await app(api_keys=["key"])
    assert (await request(keyed, Host="gpu.lan", Authorization="Bearer key")).status_code == NOT_FOUND

    listed = await app(api_keys=["key"], allowed_hosts=["gpu.lan"])
    assert (await request(listed, Host="gpu.lan", Authorization="Bearer key")).status_code == NOT_FOUND
    assert (await request(listed, Host="evil.example", Authorization="Bearer key")).status_code == 400


@pytest.mark.parametrize(
    ("headers", "is_served"),
    [
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost:8000"}, True),
        # behind a proxy the origin may differ; the browser knows that the page is of the same origin
        ({"Sec_Fetch_Site": "same-origin", "Origin": "https://proxy.example"}, True),
        ({"Sec_Fetch_Site": "none"}, True),
        ({"Origin": "http://localhost:8000"}, True),
        ({"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"}, True),
        ({"Origin": "https://videos.example"}, True),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        # another port of this machine
        ({"Sec_Fetch_Site": "same-site", "Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://app.example.evil.example"}, False),
    ],
)
async def test_a_write_from_another_sites_page_is_refused(
    app: Callable[..., Any], headers: dict[str, str], is_served: bool
) -> None:
    served = await app(cors_origins=["https://app.example"], public_url="https://videos.example")

    assert (await request(served, **headers)).status_code == (NOT_FOUND if is_served else 400)
    # other writes, also without a body
    for method, path in (("POST", "/api/ai/models/no-such-model/activate"), ("DELETE", "/api/ai/queue/none")):
        assert (await request(served, method, path, **headers)).status_code == (NOT_FOUND if is_served else 400)
    # reads are answered, but the browser does not let the page see the answer
    read = await request(served, "GET", **headers)
    assert read.status_code == 200
    is_listed = headers.get("Origin") == "https://app.example"
    assert (read.headers.get("access-control-allow-origin") is not None) is is_listed


async def test_other_sites_pages_may_read_only_if_their_origin_is_listed(app: Callable[..., Any]) -> None:
    preflight = {"Origin": "https://app.example", "Access_Control_Request_Method": "POST"}

    unlisted = await request(await app(), "OPTIONS", **preflight)
    listed = await request(await app(cors_origins=["https://app.example"]), "OPTIONS", **preflight)

    assert "access-control-allow-origin" not in unlisted.headers
    assert listed.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in listed.headers["access-control-allow-methods"]


@pytest.mark.parametrize("origin", ["https://app.example", "tauri://localhost", "app://-", "capacitor://localhost"])
async def test_listed_pages_may_read_the_headers_that_clients_need(app: Callable[..., Any], origin: str) -> None:
    answer = await request(await app(cors_origins=[origin]), "GET", Origin=origin)

    assert answer.headers["access-control-allow-origin"] == origin
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert exposed >= {"Retry-After", "Paddock-Warnings", "Content-Range", "ETag"}


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {"allowed_hosts": [name]}
            for name in ("gpu.lan:8000", "http://gpu.lan", "*", "me@gpu.lan", "gpu.lan?", "gpu lan")
        ),
        {"cors_origins": ["app.example"]},
    ],
)
def test_a_malformed_host_name_or_origin_is_refused_at_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Settings(**settings)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "http://",
        "http://*",
        "https://*.app.example",
        "app://*",
        "http://app.example:0",
        "http://app.example:99999",
        "http://app.example:",
        "http://app.example:080",
        "http://app.example:port",
        "file://:80",
        "http://me@app.example",
        "http://me:secret@app.example",
        "http://app.example/",
        "http://app.example/path",
        "http://app.example?query",
        "http://app.example#fragment",
        "http://app.example.",
        "http://app..example",
        "http://app.example\n",
        "http://app .example",
        "http://app\\example",
        "http://app.example,http://other.example",
        "http://bücher.example",
        "http://256.0.0.1",
        "http://127.1",
        "http://127.0.0.01",
        "http://0x7f000001",
        "http://[::1",
        "http://[app.example]",
        "http://[0:0:0:0:0:0:0:1]",
        "http://[fe80::1%eth0]",
        "http://::1",
        "http:app.example",
        "1app://localhost",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_by_name(origin: str) -> None:
    # a list is stripped of blanks: what it has around an origin is no fault
    with pytest.raises(ValidationError) as refused:
        Settings(cors_origins=(origin,))

    (error,) = refused.value.errors()
    assert error["loc"] == ("cors_origins",)
    assert error["msg"].startswith(f"{origin} is not an origin that a browser sends. Write scheme://host")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example:8443", "https://app.example:8443"),
        (" https://app.example ", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("https://app.example:80", "https://app.example:80"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://my_app", "http://my_app"),
        ("http://192.168.1.5:65535", "http://192.168.1.5:65535"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://-", "app://-"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("vscode-webview://1gqpkvjd8m0ov3c", "vscode-webview://1gqpkvjd8m0ov3c"),
        ("chrome-extension://cjpalhdlnbpafiamejdnhcphjbkeiagm", "chrome-extension://cjpalhdlnbpafiamejdnhcphjbkeiagm"),
        ("safari-web-extension://4E1B-0x", "safari-web-extension://4e1b-0x"),
        ("file://", "file://"),
    ],
)
async def test_an_origin_is_kept_as_browsers_send_it(app: Callable[..., Any], written: str, sent: str) -> None:
    assert Settings(cors_origins=[written]).cors_origins == (sent,)

    # an app that sends it as it was written is answered, too
    for origin in (written.strip(), sent) if sent.endswith(written.strip().lower()) else (sent,):
        answer = await request(await app(cors_origins=[written]), Origin=origin, Sec_Fetch_Site="cross-site")
        assert answer.status_code == NOT_FOUND
        assert answer.headers["access-control-allow-origin"] == origin


def test_lists_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_ALLOWED_HOSTS", "gpu.lan, other.lan,")
    monkeypatch.setenv("PADDOCK_CORS_ORIGINS", "https://app.example")

    settings = Settings()

    assert settings.allowed_hosts == ("gpu.lan", "other.lan")
    assert settings.host_names == ("gpu.lan", "other.lan", "127.0.0.1")
    assert settings.write_origins == ("https://app.example",)
