"""One attempt at an event: signed as other libraries verify it, and to public addresses only."""

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from server.media.fetch.connection import Resolve
from server.media.fetch.exchange import Exchanges, TemporaryError
from server.media.limits import RefusedInputError
from server.service.notifications.webhooks import sender
from server.service.notifications.webhooks.sender import GoneError, WebhookSender, trial_event
from server.service.notifications.webhooks.signing import secret_of, signed_headers
from tests.support.image_host import PUBLIC, Internet
from tests.support.webhook_host import URL, WebhookHost, webhook_host

SECRET = secret_of("signing key", "tenant")
NOT_PUBLIC = "must be a URL of a public address"


@pytest.fixture
def host() -> Iterator[WebhookHost]:
    with webhook_host() as host:
        yield host


async def send(host: WebhookHost, url: str = URL, body: bytes = b'{"a":"\xc3\xa9"}') -> int:
    net = host.internet()
    return await WebhookSender(Exchanges(net.resolve, net)).send(httpx.URL(url), SECRET, "msg_1", body)


async def test_another_library_verifies_what_arrives(host: WebhookHost) -> None:
    assert await send(host) == 204

    (received,) = host.received
    assert received.verified(SECRET) == {"a": "é"}
    assert received.id == "msg_1"
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of("signing key", "another")).verify(received.body, received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.body + b" ", received.headers)


def test_the_headers_are_those_of_the_standards_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_tenant_and_each_server_has_a_secret_of_its_own() -> None:
    secrets = {secret_of(key, tenant) for key in ("a", "b") for tenant in ("", "0123456789abcdef")}

    assert len(secrets) == 4
    assert all(secret.startswith("whsec_") and len(secret) == 50 for secret in secrets)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 429, 500, 503])
async def test_whatever_is_no_success_may_be_tried_again_and_no_redirect_is_followed(
    host: WebhookHost, status: int
) -> None:
    host.status = lambda: status

    with pytest.raises(TemporaryError, match=f"answers with HTTP status {status}"):
        await send(host)

    assert [each.path for each in host.received] == ["/in"]


async def test_a_receiver_may_want_no_more(host: WebhookHost) -> None:
    host.status = lambda: 410

    with pytest.raises(GoneError):
        await send(host)


@pytest.mark.parametrize(
    "url", ["http://inside.example/", "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/"]
)
async def test_an_address_that_is_not_public_is_not_connected_to(host: WebhookHost, url: str) -> None:
    net = host.internet()
    net.hosts = {**net.hosts, "127.0.0.1": host.port, "10.0.0.1": host.port, "::1": host.port}

    with pytest.raises(RefusedInputError, match=NOT_PUBLIC):
        await WebhookSender(Exchanges(_itself(net), net)).send(httpx.URL(url), SECRET, "msg_1", b"{}")

    assert net.connected == []
    assert host.received == []


def _itself(net: Internet) -> Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return [host] if host in net.hosts or host.startswith("169.") else await net.resolve(host, port)

    return resolve


async def test_a_name_is_resolved_once_for_an_attempt_and_that_address_used(host: WebhookHost) -> None:
    net = host.internet()
    sending = WebhookSender(Exchanges(net.resolve, net))

    assert await sending.send(httpx.URL("http://rebound.example/in"), SECRET, "msg_1", b"{}") == 204
    assert net.asked == ["rebound.example"]
    # the next attempt asks again, and the answer is checked again
    with pytest.raises(RefusedInputError, match=NOT_PUBLIC):
        await sending.send(httpx.URL("http://rebound.example/in"), SECRET, "msg_1", b"{}")

    assert net.connected == [(PUBLIC, 80)]
    assert len(host.received) == 1


async def test_a_receiver_that_does_not_answer_costs_a_limited_time(
    host: WebhookHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.2)
    host.delay = 1.0

    with pytest.raises(TemporaryError, match=r"did not answer within 0\.2 seconds"):
        await send(host)


async def test_an_answer_without_end_is_not_read(host: WebhookHost) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"5\r\nabcde\r\n" * 1000)
                await writer.drain()
        except OSError:
            writer.close()

    listener = await asyncio.start_server(endless, sock=socket.create_server(("127.0.0.1", 0)))
    net = host.internet()
    net.hosts = {PUBLIC: listener.sockets[0].getsockname()[1]}
    try:
        assert await WebhookSender(Exchanges(net.resolve, net)).send(httpx.URL(URL), SECRET, "msg_1", b"{}") == 200
    finally:
        listener.close()


def test_a_trial_event_is_one_of_the_kind() -> None:
    event = trial_event()

    assert event.body.startswith(b'{"type":"webhook.test","timestamp":"2')
    assert event.body.endswith(b'Z","data":{}}')
    assert event.id != trial_event().id
