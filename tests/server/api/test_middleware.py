"""Pages of other sites get nothing done through a browser, and everybody else is served as before."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.core.settings import Settings
from server.runtime.app import create_app

JSON = {"Content-Type": "application/json"}
BODY = '{"model": "no-such-model", "prompt": "an ox"}'
NOT_FOUND = 404
"""What a request for that model gets once it is let in."""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Applications by their settings, running."""
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


async def asked(
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
async def test_a_name_it_does_not_go_by_is_refused(
    app: Callable[..., Any], headers: dict[str, str], is_served: bool, method: str
) -> None:
    served = await app(allowed_hosts=["gpu.lan"], public_url="https://videos.example/paddock")

    answer = await asked(served, method, **headers)

    assert answer.status_code == ((NOT_FOUND if method == "POST" else 200) if is_served else 400)
    if not is_served:
        assert answer.json()["error"]["type"] == "invalid_params"
        assert "allowed_hosts" in answer.json()["error"]["detail"]
        assert "evil" not in answer.text


async def test_where_a_key_is_needed_any_name_will_do(app: Callable[..., Any]) -> None:
    keyed = await app(api_keys=["key"])
    assert (await asked(keyed, Host="gpu.lan", Authorization="Bearer key")).status_code == NOT_FOUND

    listed = await app(api_keys=["key"], allowed_hosts=["gpu.lan"])
    assert (await asked(listed, Host="gpu.lan", Authorization="Bearer key")).status_code == NOT_FOUND
    assert (await asked(listed, Host="evil.example", Authorization="Bearer key")).status_code == 400


@pytest.mark.parametrize(
    ("headers", "is_served"),
    [
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost:8000"}, True),
        # a proxy of the owner's may rename the server; the browser knows better
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
async def test_a_write_for_another_sites_page_is_refused(
    app: Callable[..., Any], headers: dict[str, str], is_served: bool
) -> None:
    served = await app(cors_origins=["https://app.example"], public_url="https://videos.example")

    assert (await asked(served, **headers)).status_code == (NOT_FOUND if is_served else 400)
    # without a body as well, and whatever the write is
    for method, path in (("POST", "/api/ai/models/no-such-model/activate"), ("DELETE", "/api/ai/queue/none")):
        assert (await asked(served, method, path, **headers)).status_code == (NOT_FOUND if is_served else 400)
    # what only reads is answered, and not for that page to see
    read = await asked(served, "GET", **headers)
    assert read.status_code == 200
    is_named = headers.get("Origin") == "https://app.example"
    assert (read.headers.get("access-control-allow-origin") is not None) is is_named


async def test_no_other_page_may_read_unless_it_is_named(app: Callable[..., Any]) -> None:
    preflight = {"Origin": "https://app.example", "Access_Control_Request_Method": "POST"}

    unnamed = await asked(await app(), "OPTIONS", **preflight)
    named = await asked(await app(cors_origins=["https://app.example"]), "OPTIONS", **preflight)

    assert "access-control-allow-origin" not in unnamed.headers
    assert named.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in named.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    "settings",
    [{"allowed_hosts": ["gpu.lan:8000"]}, {"allowed_hosts": ["http://gpu.lan"]}, {"cors_origins": ["app.example"]}],
)
def test_what_is_no_name_or_origin_is_refused_at_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Settings(**settings)


def test_lists_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_ALLOWED_HOSTS", "gpu.lan, other.lan,")
    monkeypatch.setenv("PADDOCK_CORS_ORIGINS", "https://app.example")

    settings = Settings()

    assert settings.allowed_hosts == ("gpu.lan", "other.lan")
    assert settings.names == ("gpu.lan", "other.lan", "127.0.0.1")
    assert settings.writers == ("https://app.example",)
