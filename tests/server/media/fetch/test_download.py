"""Downloads over real sockets, in an internet whose public addresses lead to a host on loopback."""

import asyncio
import gzip
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from server.media.fetch import connection, exchange
from server.media.fetch.download import IMAGE_FILE, VIDEO_FILE, Downloader, FileKind
from server.media.fetch.exchange import TemporaryError
from server.media.limits import IMAGE_BYTES, RefusedInputError
from tests.support.image_host import OTHER_PUBLIC, PUBLIC, ImageHost, Internet, content, held, image_host, parts, status
from tests.support.server_process import needs

NAME = "images.example"
NOT_PUBLIC = "must be a URL of a public address"
REDIRECTED = f"redirects to a URL that cannot be used: it {NOT_PUBLIC}"
TOO_LARGE = "must have at most 20 MB"


@pytest.fixture
def host() -> Iterator[ImageHost]:
    with image_host() as host:
        host.answers["/ox"] = content(b"an ox")
        yield host


def internet(host: ImageHost, *answers: list[str], **more: list[str]) -> Internet:
    names: dict[str, list[list[str]]] = {NAME: list(answers) or [[PUBLIC]]}
    return Internet({PUBLIC: host.port, OTHER_PUBLIC: host.port}, names | {key: [more[key]] for key in more})


async def get(net: Internet, target: Path, url: str = f"http://{NAME}/ox", kind: FileKind = IMAGE_FILE) -> bytes:
    await Downloader(net.resolve, net).download(url, target, kind)
    return written(target)


def written(target: Path) -> bytes:
    return target.read_bytes() if target.exists() else b""


async def refusal(net: Internet, target: Path, path: str = "/ox", kind: FileKind = IMAGE_FILE) -> str:
    with pytest.raises(RefusedInputError) as caught:
        await get(net, target, f"http://{NAME}{path}", kind)
    return str(caught.value)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "image"


async def test_the_address_that_was_checked_is_connected_to_and_the_name_kept(host: ImageHost, target: Path) -> None:
    net = internet(host, [PUBLIC], ["127.0.0.1"])

    assert await get(net, target, f"http://{NAME}:8080/ox#top") == b"an ox"

    assert net.asked == [NAME]
    assert net.connected == [(PUBLIC, 8080)]
    ((path, headers),) = host.seen
    assert path == "/ox"
    assert headers["host"] == f"{NAME}:8080"
    assert headers["accept-encoding"] == "identity"


async def test_tls_is_with_the_name_of_the_url(host: ImageHost, target: Path) -> None:
    net = internet(host)

    assert await get(net, target, f"https://{NAME}/ox") == b"an ox"

    assert net.tls_names == [NAME]
    assert net.connected == [(PUBLIC, 443)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for NAME that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    signed, key = folder / "signed.pem", folder / "key.pem"
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    made = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", key, "-out", signed], check=True, capture_output=True)
    return signed, key


async def test_a_certificate_must_be_trusted_and_for_the_name(
    host: ImageHost, target: Path, certificate: tuple[Path, Path]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    # in the thread of each connection
    host.server.socket = context.wrap_socket(host.server.socket, server_side=True, do_handshake_on_connect=False)
    trusting = ssl.create_default_context(cafile=certificate[0])
    net = internet(host, other=[PUBLIC])
    net.has_tls = True

    await Downloader(net.resolve, net, trusting).download(f"https://{NAME}/ox", target)
    assert written(target) == b"an ox"
    for url, tls in ((f"https://{NAME}/ox", None), ("https://other/ox", trusting)):
        with pytest.raises(RefusedInputError, match="a host without a valid certificate") as caught:
            await Downloader(net.resolve, net, tls).download(url, target)
        assert not isinstance(caught.value, TemporaryError)


async def test_no_proxy_of_the_environment_is_used(
    host: ImageHost, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    net = internet(host)

    assert await get(net, target) == b"an ox"
    assert net.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], [PUBLIC, "10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["fe80::1%1"]],
)
async def test_a_name_of_an_address_that_is_not_public_is_not_connected_to(
    addresses: list[str], host: ImageHost, target: Path
) -> None:
    net = internet(host, addresses)

    assert await refusal(net, target) == NOT_PUBLIC
    assert net.connected == []


async def test_a_name_server_that_changes_its_answer_is_refused_where_it_is_asked_again(
    host: ImageHost, target: Path
) -> None:
    host.answers["/moved"] = status(302, location="/ox")
    net = internet(host, [PUBLIC], ["127.0.0.1"])

    assert await refusal(net, target, "/moved") == NOT_PUBLIC
    assert net.connected == [(PUBLIC, 80)]


async def test_the_next_address_of_a_host_is_tried(host: ImageHost, target: Path) -> None:
    net = internet(host, ["8.8.8.8", OTHER_PUBLIC])

    assert await get(net, target) == b"an ox"
    assert [address for address, _ in net.connected] == ["8.8.8.8", OTHER_PUBLIC]


async def test_three_redirects_are_followed_and_no_fourth(host: ImageHost, target: Path) -> None:
    for number in range(4):
        host.answers[f"/{number}"] = status(301 + number % 3, location=f"http://{NAME}/{number + 1}")
    host.answers["/3"] = status(308, location="ox")
    net = internet(host)

    assert await get(net, target, f"http://{NAME}/1") == b"an ox"
    assert await refusal(net, target, "/0") == "is a URL that redirects more than 3 times"
    assert host.paths == ["/1", "/2", "/3", "/ox", "/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8000/api/ai/queue",
        "//localhost/",
        "http://[::ffff:7f00:1]/",
        "http://2852039166/",
    ],
)
async def test_redirects_to_what_is_not_public_are_refused(location: str, host: ImageHost, target: Path) -> None:
    host.answers["/moved"] = status(302, location=location)
    net = internet(host)

    assert await refusal(net, target, "/moved") == REDIRECTED
    assert net.connected == [(PUBLIC, 80)]


async def test_redirects_to_other_schemes_are_refused(host: ImageHost, target: Path) -> None:
    host.answers["/moved"] = status(302, location="file:///etc/passwd")

    assert "must be a URL with https: or http:" in await refusal(internet(host), target, "/moved")


async def test_a_redirect_to_a_name_of_a_private_address_is_refused(host: ImageHost, target: Path) -> None:
    host.answers["/moved"] = status(302, location="http://inside/")
    net = internet(host, inside=["192.168.0.1"])

    assert await refusal(net, target, "/moved") == NOT_PUBLIC
    assert net.connected == [(PUBLIC, 80)]


async def test_what_says_that_it_is_too_large_is_not_read(host: ImageHost, target: Path) -> None:
    host.answers["/large"] = content(b"x", content_length=str(IMAGE_BYTES + 1))

    assert await refusal(internet(host), target, "/large") == TOO_LARGE
    assert not written(target)


async def test_a_body_without_an_end_is_read_up_to_the_limit(host: ImageHost, target: Path) -> None:
    host.answers["/endless"] = parts(repeat(bytes(2**20)))

    assert await refusal(internet(host), target, "/endless") == TOO_LARGE
    assert 0 < len(written(target)) <= IMAGE_BYTES


async def test_as_much_as_is_allowed_is_read(host: ImageHost, target: Path) -> None:
    host.answers["/most"] = parts([bytes(2**20)] * 20)

    assert len(await get(internet(host), target, f"http://{NAME}/most")) == IMAGE_BYTES


@pytest.mark.parametrize("encoding", ["gzip", "x-unknown", "identity, gzip"])
async def test_what_is_compressed_is_not_read(encoding: str, host: ImageHost, target: Path) -> None:
    host.answers["/bomb"] = content(gzip.compress(bytes(50 * 2**20)), content_encoding=encoding)

    assert "compressed content" in await refusal(internet(host), target, "/bomb")
    assert not written(target)


async def test_a_slow_body_ends_with_the_time_of_the_download(
    host: ImageHost, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = replace(VIDEO_FILE, seconds=0.3)

    def drops(request: Any) -> None:
        request.send_response(200)
        request.end_headers()
        while not host.may_go_on.wait(0.02):
            request.wfile.write(b"x")

    host.answers["/slow"] = drops

    said = await refusal(internet(host), target, "/slow", kind)
    assert said == "is a URL that did not give a video within 0.3 seconds"


async def test_what_may_pass_is_told_from_what_will_not(
    host: ImageHost, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exchange._TIMEOUTS, "read", 0.2)
    host.answers |= {
        "/silent": held(host, content(b"an ox")),
        "/busy": status(503),
        "/short": content(b"an o", content_length="5"),
        "/forbidden": status(403),
    }
    net = internet(host, again=[], closed=["8.8.8.8"])
    cases = {
        f"http://{NAME}/silent": "is a URL that does not answer",
        f"http://{NAME}/busy": "is a URL that answers with HTTP status 503",
        f"http://{NAME}/short": "is a URL that cannot be fetched: the connection failed or ended early",
        "http://again/": "is a URL that cannot be fetched: the connection failed or ended early",
        "http://closed/": "is a URL that cannot be fetched: the connection failed or ended early",
        f"http://{NAME}/forbidden": "is a URL that answers with HTTP status 403",
        f"http://{NAME}/none": "is a URL that answers with HTTP status 404",
        "http://unknown/": "is a URL of a host that is not found",
    }

    for url, sentence in cases.items():
        with pytest.raises(RefusedInputError) as caught:
            await get(net, target, url)
        assert str(caught.value) == sentence
        is_final = "403" in sentence or "404" in sentence or "not found" in sentence
        assert isinstance(caught.value, TemporaryError) is not is_final, url


async def test_the_systems_resolver_is_asked_on_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1" in await connection.resolve("127.1", 80)

    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror):
        await connection.resolve("unknown", 80)
    asking = asyncio.create_task(connection.resolve("unknown", 80))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
