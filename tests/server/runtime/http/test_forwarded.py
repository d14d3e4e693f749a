"""What proxies tell of a request: believed of trusted ones only, and of what a client makes up nothing is left."""

from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from server.core.settings.settings import Settings
from server.runtime.app import create_app
from server.runtime.http.forwarded import TrustedProxies, counted_as, plain_address
from tests.support.server_process import SMALL

PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"

Ask = Callable[..., Any]


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Ask]:
    """A function that sends a request to an application with the given settings, from a peer, with headers."""
    contexts: list[Any] = []
    apps: dict[str, FastAPI] = {}

    async def send(
        path: str, method: str = "GET", peer: str = PROXY, told: Any = (), host: str = "10.0.0.9:8000", **settings: Any
    ) -> httpx.Response:
        name = repr(settings)
        if name not in apps:
            chosen = {"trusted_proxies": [PROXY], "allowed_hosts": ["videos.example"], **settings}
            apps[name] = create_app(Settings(data_dir=tmp_path / str(len(apps)), demo=True, **chosen))
            contexts.append(apps[name].router.lifespan_context(apps[name]))
            await contexts[-1].__aenter__()
        headers = [("Host", host), *(dict(told).items())]
        transport = httpx.ASGITransport(apps[name], client=(peer, 1))
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.request(
                method, f"http://{host}{path}", headers=headers, json=SMALL if method == "POST" else None
            )

    yield send
    for context in contexts:
        await context.__aexit__(None, None, None)


def told(**headers: str) -> dict[str, str]:
    return {f"X-Forwarded-{name}": value for name, value in headers.items()}


ALL = told(For=CLIENT, Proto="https", Host="videos.example", Prefix="/paddock")


async def base_of(ask: Ask, **about: Any) -> str:
    """The base of links and of the OpenAPI document, for one request."""
    from starlette.requests import Request

    seen: list[str] = []
    original = Request.base_url.fget  # type: ignore[attr-defined]

    def record(request: Request) -> Any:
        seen.append(str(original(request)))
        return original(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Request, "base_url", property(record))
        answer = await ask("/api/ai/queue", **about)
    assert answer.status_code == 200, answer.text
    return seen[-1]


async def test_a_trusted_proxy_tells_the_scheme_the_host_and_the_prefix(ask: Ask) -> None:
    assert await base_of(ask, told=ALL) == "https://videos.example/paddock/"
    assert await base_of(ask, told=told(Proto="HTTPS", Host="videos.example:8443")) == "https://videos.example:8443/"
    assert await base_of(ask, told=told(Host="[2001:db8::1]:8443")) == "http://[2001:db8::1]:8443/"
    assert await base_of(ask, told=told(Prefix="/a/b.c_d~e/")) == "http://10.0.0.9:8000/a/b.c_d~e/"
    assert await base_of(ask) == "http://10.0.0.9:8000/"


async def test_another_peer_changes_nothing(ask: Ask) -> None:
    for peer in (CLIENT, "10.0.0.2", "::1", "not an address", ""):
        assert await base_of(ask, peer=peer, told=ALL) == "http://10.0.0.9:8000/", peer
        assert (await ask("/openapi.json", peer=peer, told=ALL)).json()["servers"] == [{"url": "/"}], peer
        # not even whether the request is answered
        assert (await ask("/healthz", peer=peer, told=told(Host="evil.example"))).status_code == 200, peer


GARBAGE = [
    "a b",
    'vi"deos.example',
    "'",
    "<script>",
    "//evil.example",
    "///",
    "/..",
    "/../evil",
    "/a/../b",
    "/.",
    "/a//b",
    "/a\\b",
    "/a%2fb",
    "/a%0d%0aSet-Cookie:x",
    "%0d%0aX: y",
    "/a?b",
    "/a#b",
    "/a;b",
    "https://evil.example",
    "evil.example/",
    "me@evil.example",
    "[::1",
    "::1",
    "host:port",
    "host:999999",
    "/é",
    "\u00ff",
    "/" + "a" * 10_000,
    "a" * 10_000,
    "," * 1000,
    "null\x00",
]


@pytest.mark.parametrize("name", ["Proto", "Host", "Prefix", "For"])
async def test_a_malformed_value_counts_as_absent(ask: Ask, name: str) -> None:
    for garbage in GARBAGE:
        headers = {f"X-Forwarded-{name}".encode(): garbage.encode("latin-1")}

        assert await base_of(ask, told=headers) == "http://10.0.0.9:8000/", garbage
        assert (await ask("/openapi.json", told=headers)).json()["servers"] == [{"url": "/"}], garbage
        assert (await ask("/nope", told=headers)).status_code == 404, garbage


async def test_of_several_values_the_nearest_proxys_counts(ask: Ask) -> None:
    made_up = told(Proto="http, https", Host="evil.example, videos.example", Prefix="/evil,/paddock")

    assert await base_of(ask, told=made_up) == "https://videos.example/paddock/"


async def test_the_standard_header_is_ignored(ask: Ask) -> None:
    forwarded = {"Forwarded": f"for={CLIENT};proto=https;host=videos.example"}

    assert await base_of(ask, told=forwarded) == "http://10.0.0.9:8000/"


async def test_what_a_proxy_tells_does_not_replace_the_check_of_the_host(ask: Ask) -> None:
    # a page that has its own name point at this machine may send any header but Host
    rebound = await ask("/api/ai/queue", host="evil.example:8000", told=told(Host="videos.example"))
    unknown = await ask("/api/ai/queue", told=told(Host="evil.example"))

    for answer in (rebound, unknown):
        assert answer.status_code == 400
        assert "allowed_hosts" in answer.json()["error"]["message"]


async def test_a_write_by_the_page_behind_a_proxy_is_recognized_without_sec_fetch_site(ask: Ask) -> None:
    for origin, status in (("https://videos.example", 200), ("https://evil.example", 400)):
        answer = await ask("/api/ai/queue", "POST", told={**ALL, "Origin": origin})
        assert answer.status_code == status


async def test_public_url_is_the_address_whatever_proxies_tell(ask: Ask) -> None:
    settings = {"public_url": "https://hub.example/video/"}

    for peer in (PROXY, CLIENT):
        document = (await ask("/openapi.json", peer=peer, told=ALL, **settings)).json()
        assert document["servers"] == [{"url": "https://hub.example/video"}]
    without_path = (await ask("/openapi.json", told=ALL, public_url="https://hub.example")).json()
    assert without_path["servers"] == [{"url": "https://hub.example"}]


async def test_the_document_names_the_prefix_of_each_request(ask: Ask) -> None:
    documents = [(await ask("/openapi.json", told=told(Prefix=prefix))).json() for prefix in ("/a", "", "/b")]

    assert [document.get("servers") for document in documents] == [[{"url": "/a"}], [{"url": "/"}], [{"url": "/b"}]]


@pytest.mark.parametrize("prefix", ["", "/paddock", "/api", "/web", "/api/events"])
async def test_every_kind_of_route_works_under_a_prefix(ask: Ask, prefix: str) -> None:
    headers = told(Prefix=prefix)

    assert (await ask("/api/ai/models", told=headers)).status_code == 200
    assert (await ask("/web/js/core/api.js", told=headers)).headers["content-type"].startswith("text/javascript")
    assert (await ask("/web/nope.js", told=headers)).status_code == 404
    for path in ("/", "/web/css/base.css", "/healthz", "/api/ai/queue"):
        head = await ask(path, "HEAD", told=headers)
        assert (head.status_code, head.content) == (200, b"")
    assert (await ask("/api/events", "HEAD", told=headers)).headers["allow"] == "GET"
    refused = await ask("/api/ai/queue", "PATCH", told=headers)
    assert refused.headers["allow"] == "GET, HEAD, POST"
    assert refused.json()["error"]["message"] == f"{prefix}/api/ai/queue supports GET, HEAD, POST, not PATCH."
    missing = (await ask("/nope", told=headers)).json()["error"]["message"]
    assert missing == f"There is no route {prefix}/nope. {prefix}/openapi.json lists all routes."


REDIRECTS = {
    "/ai/workbench": "../",
    "/ai/workbench?model=a&b=%22": "../?model=a&b=%22",
    "/ai/workbench/": "../workbench",
    "/api/ai/queue/": "../queue",
    "/api/ai/queue/?status=failed": "../queue?status=failed",
    "/api/ai/queue/..%3Bevil%0d%0a/": "../..%3Bevil%0D%0A",
    "/api/ai/queue/%2e%2e/": "../..",
    "/api/ai/queue/a:b/": "../a%3Ab",
    "/queue/": "../queue",
}
NO_ROUTES = ("//", "/nope/", "/web/", "/web", "/web/js/", "//evil.example/", "/api/ai/queue//", "/healthz//")


@pytest.mark.parametrize("prefix", ["", "/paddock"])
async def test_redirects_are_relative(ask: Ask, prefix: str) -> None:
    for path, location in REDIRECTS.items():
        answer = await ask(path, told=told(Prefix=prefix))
        assert (answer.status_code, answer.headers.get("location")) == (307, location), path
    for path in NO_ROUTES:
        assert (await ask(path, told=told(Prefix=prefix))).status_code == 404, path


TRUSTED = TrustedProxies([ip_network("10.0.0.0/24"), ip_network("2001:db8::/64"), ip_network("::1")])


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        (PROXY, [], PROXY),
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{CLIENT}:4711"], CLIENT),
        (PROXY, ["198.51.100.1, " + CLIENT], CLIENT),
        (PROXY, [f"198.51.100.1, {CLIENT}, 10.0.0.2,10.0.0.3"], CLIENT),
        (PROXY, ["198.51.100.1", CLIENT, "10.0.0.2"], CLIENT),
        (PROXY, ["10.0.0.4, 10.0.0.5"], "10.0.0.4"),
        (PROXY, ["2001:db8:1::7"], "2001:db8:1::7"),
        (PROXY, ["[2001:db8:1::7]:443"], "2001:db8:1::7"),
        (PROXY, ["2001:DB8:1:0:0:0:0:7"], "2001:db8:1::7"),
        (PROXY, [f"::ffff:{CLIENT}"], CLIENT),
        ("2001:db8::5", [CLIENT], CLIENT),
        ("2001:db8:1::5", [CLIENT], "2001:db8:1::5"),
        (f"::ffff:{PROXY}", [CLIENT], CLIENT),
        (CLIENT, ["198.51.100.1"], CLIENT),
        ("", [CLIENT], ""),
        # what is before something malformed was told by nobody who is known
        (PROXY, ["198.51.100.1, unknown"], PROXY),
        (PROXY, ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        (PROXY, ["198.51.100.1,"], PROXY),
        (PROXY, ["_hidden"], PROXY),
        (PROXY, ['"' + CLIENT + '"'], PROXY),
        (PROXY, ["a" * 10_000], PROXY),
        (PROXY, ["\u00ff"], PROXY),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxys(peer: str, lines: list[str], client: str) -> None:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]

    assert TRUSTED.client_of(peer, headers) == client


@pytest.mark.parametrize(
    ("address", "plain"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("", "")],
)
def test_an_ipv4_address_has_one_spelling(address: str, plain: str) -> None:
    assert plain_address(address) == plain


@pytest.mark.parametrize("proxies", ["*", "caddy", "10.0.0.0/33", "10.0.0.1/24", "10.0.0.*", "10.0.0.1:80"])
def test_proxies_are_addresses_or_networks(proxies: str) -> None:
    with pytest.raises(ValidationError, match="trusted_proxies"):
        Settings(trusted_proxies=proxies)


def test_proxies_can_be_listed_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_TRUSTED_PROXIES", "10.0.0.5, 172.30.83.0/24, 2001:db8::/64")

    assert [str(network) for network in Settings().trusted_proxies] == [
        "10.0.0.5/32",
        "172.30.83.0/24",
        "2001:db8::/64",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "videos.example",
        "ftp://videos.example",
        "https://",
        "https:///paddock",
        "https://me@videos.example",
        "https://videos.example?a=b",
        "https://videos.example/#a",
        "https://videos.example//",
        "https://videos.example/a/../b",
        "https://videos.example/a b",
        "https://videos.example/%2e%2e",
        "https://videos .example",
        "https://videos.example\n",
    ],
)
def test_a_public_url_that_links_cannot_begin_with_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="public_url"):
        Settings(public_url=url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://localhost:8000", ""),
        ("https://videos.example/", ""),
        ("https://videos.example/paddock", "/paddock"),
        ("https://[2001:db8::1]:8443/a/b/", "/a/b"),
    ],
)
def test_a_public_url_may_have_a_path(url: str, path: str) -> None:
    assert Settings(public_url=url).public_path == path
    assert Settings().public_path is None


@pytest.mark.parametrize(
    ("address", "counted"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1:2", "2001:db8::/64"), ("::1", "::/64"), ("", ""), ("unix", "unix")],
)
def test_an_ipv6_address_counts_for_its_network(address: str, counted: str) -> None:
    assert counted_as(address) == counted
