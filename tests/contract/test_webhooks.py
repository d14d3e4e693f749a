"""Webhooks of requests and of keys, on both routes of a real server, received and verified by another library."""

import re
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.service.notifications.webhooks.signing import secret_of
from server.storage.db.api_keys import KeyRing, digest, tenant_of
from server.storage.db.connection import opened
from server.storage.db.statements.signing_keys import keys_that_sign
from tests.support.server_process import SMALL, ServerProcess, eventually
from tests.support.webhook_host import URL, Received, WebhookHost, webhook_host

SETTING = "the setting webhooks (PADDOCK_WEBHOOKS)"
OFF = f"webhook_url is not supported by this server: its operator allows hosts with {SETTING}."
NOT_ALLOWED = f"webhook_url must be a URL of a host that {SETTING} allows."
NOT_PUBLIC = "webhook_url must be a URL of a public address."
EVENTS = "webhook_events must be a list of some of "
ROUTES = ("/queue", "/videos/generate")


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookHost]:
    with webhook_host() as host:
        yield host


@pytest.fixture(autouse=True)
def host(receiver: WebhookHost) -> WebhookHost:
    receiver.received.clear()
    receiver.status = lambda: 204
    return receiver


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("webhooks") / "data"
    folder.mkdir()
    return f"sqlite:///{folder / 'paddock.db'}"


@pytest.fixture(scope="module")
def own_keys(database: str) -> dict[str, str]:
    with opened(database) as engine:
        ring = KeyRing(engine)
        return {"plain": ring.add("plain"), "told": ring.add("told", webhook_url=f"{URL}/told")}


@pytest.fixture(scope="module")
def serving(receiver: WebhookHost, database: str, own_keys: dict[str, str]) -> Iterator[ServerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEBHOOK_HOST_PORT", str(receiver.port))
        folder = Path(database.removeprefix("sqlite:///")).parent
        process = ServerProcess(folder, module="tests.support.webhook_host", webhooks="hooks.example,Inside.example.")
        process.start()
        yield process
        process.close()


@pytest.fixture
def server(serving: ServerProcess, own_keys: dict[str, str]) -> Iterator[ServerProcess]:
    seen = serving.with_key(own_keys["plain"])
    yield seen
    seen.http.close()


@pytest.fixture
def secret(database: str, own_keys: dict[str, str], serving: ServerProcess) -> str:
    with opened(database) as engine:
        return secret_of(keys_that_sign(engine)[0], tenant_of(digest(own_keys["plain"])))


def enqueue(server: ServerProcess, **changes: Any) -> str:
    answer = server.http.post("/queue", json={**SMALL, "webhook_url": URL, **changes})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["generations"][0]["generation_id"])


def received(host: WebhookHost, server: ServerProcess, count: int) -> list[Received]:
    eventually(lambda: len(host.arrived) >= count, server)
    return host.arrived


def test_the_row_of_a_finished_video_arrives_signed(server: ServerProcess, host: WebhookHost, secret: str) -> None:
    id_ = enqueue(server, seed=7)

    (only,) = received(host, server, 1)
    event = only.verified(secret)

    row = server.row(id_)
    assert event["type"] == "generation.succeeded"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
    linked = {"result_url", "thumbnail_url", "spritesheet_url"}
    # the stills are drawn before or after the event
    assert {**event["data"], **dict.fromkeys(linked)} == {**row, **dict.fromkeys(linked)}
    assert event["data"]["result_url"].startswith(server.url)
    assert httpx.get(event["data"]["result_url"]).headers["content-type"] == "video/mp4"
    assert only.path == "/in"
    assert only.headers["content-type"] == "application/json"
    assert only.headers["user-agent"].startswith("Paddock/")
    # shown to its sender, and neither a secret nor anything of the delivery
    assert row["webhook_url"] == URL
    assert "whsec" not in str(row)
    assert "webhook" not in str(server.http.get("/queue").json())


def test_only_the_named_events_arrive(server: ServerProcess, host: WebhookHost, secret: str) -> None:
    events = ["generation.started", "generation.cancelled", "generation.failed"]
    id_ = enqueue(server, webhook_events=events)
    server.wait_for(id_, "succeeded")
    failed = enqueue(server, webhook_events=events, num_frames=-1)

    got = [each.verified(secret) for each in received(host, server, 2)]

    assert {(each["type"], each["data"]["generation_id"]) for each in got} == {
        ("generation.started", id_),
        ("generation.failed", failed),
    }
    assert next(each for each in got if each["type"] == "generation.failed")["data"]["error_message"]


def test_the_sync_route_and_a_multipart_body_have_webhooks_too(
    server: ServerProcess, host: WebhookHost, secret: str
) -> None:
    fields = {name: (None, str(value)) for name, value in SMALL.items()}
    fields |= {"webhook_url": (None, URL), "webhook_events": (None, '["generation.started"]')}

    assert server.http.post("/videos/generate", files=fields).status_code == 200

    (only,) = received(host, server, 1)
    assert only.verified(secret)["type"] == "generation.started"


def test_an_event_is_sent_again_with_its_id_until_it_arrives(server: ServerProcess, host: WebhookHost) -> None:
    answers = chain([500, 302, 404], repeat(200))
    host.status = lambda: next(answers)

    enqueue(server)

    (arrived,) = received(host, server, 1)
    assert [each.status for each in host.received] == [500, 302, 404, 200]
    assert {each.id for each in host.received} == {arrived.id}
    assert {each.path for each in host.received} == {"/in"}


def test_a_receiver_that_wants_no_more_is_left_alone(server: ServerProcess, host: WebhookHost) -> None:
    host.status = lambda: 410

    id_ = enqueue(server)

    eventually(lambda: id_ in server.log_text() and "was given up after 1 attempts" in server.log_text(), server)
    assert len(host.received) == 1


def test_the_webhook_of_a_key_is_told_unless_a_request_names_another(
    serving: ServerProcess, host: WebhookHost, own_keys: dict[str, str]
) -> None:
    told = serving.with_key(own_keys["told"])
    id_ = enqueue(told, webhook_url=None)
    other = enqueue(told, webhook_events=["generation.succeeded"])

    paths = {each.path: each.body for each in received(host, told, 2)}

    assert id_.encode() in paths["/in/told"]
    assert other.encode() in paths["/in"]
    assert "webhook_url" not in told.row(id_)
    told.http.close()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("webhook", "sentence"),
    [
        ({"webhook_url": "https://other.example/"}, NOT_ALLOWED),
        ({"webhook_url": "https://hooks.example.evil.example/"}, NOT_ALLOWED),
        ({"webhook_url": "http://127.0.0.1/"}, NOT_PUBLIC),
        ({"webhook_url": "http://0x7f.1/"}, NOT_PUBLIC),
        ({"webhook_url": "http://[::ffff:10.0.0.1]/"}, NOT_PUBLIC),
        ({"webhook_url": "http://localhost:8000/"}, NOT_PUBLIC),
        ({"webhook_url": "ftp://hooks.example/"}, "webhook_url must be a URL with https: or http:."),
        (
            {"webhook_url": "http://me:pass@hooks.example/"},
            "webhook_url must be a URL without a user name and a password.",
        ),
        ({"webhook_url": URL + "x" * 2048}, "webhook_url must have at most 2048 characters."),
        ({"webhook_url": 7}, "webhook_url must be a string: a URL with https: or http:"),
        ({"webhook_url": URL, "webhook_events": ["ended"]}, EVENTS),
        ({"webhook_url": URL, "webhook_events": ["generation.failed"] * 2}, EVENTS),
        ({"webhook_url": URL, "webhook_events": "generation.failed"}, EVENTS),
        ({"webhook_url": URL, "webhook_events": [{}]}, EVENTS),
    ],
)
def test_what_is_no_webhook_is_refused_on_both_routes(
    route: str, webhook: dict[str, Any], sentence: str, server: ServerProcess
) -> None:
    answer = server.http.post(route, json={**SMALL, **webhook})

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_params"
    assert answer.json()["error"]["message"].startswith(sentence)


def test_events_without_a_webhook_are_a_warning(server: ServerProcess, host: WebhookHost) -> None:
    id_ = enqueue(server, webhook_url=None, webhook_events=["generation.failed"])

    assert server.row(id_)["warnings"] == ["webhook_events has no effect without webhook_url: it was ignored."]


def test_a_name_that_stands_for_this_machine_is_never_connected_to(server: ServerProcess, host: WebhookHost) -> None:
    id_ = enqueue(server, webhook_url="http://inside.example/in")

    refused = f"generation.succeeded of {id_}"
    eventually(lambda: refused in server.log_text(), server)
    line = next(line for line in server.log_text().splitlines() if refused in line)
    assert "the webhook must be a URL of a public address; trying again" in line
    assert host.received == []


def test_a_model_lists_the_parameters_only_where_they_may_be_used(
    server: ServerProcess, keyed_server: ServerProcess, key: str
) -> None:
    listed = server.http.get("/models").json()["data"][0]["x-paddock-parameters"]
    assert {"webhook_url", "webhook_events"} <= listed.keys()
    document = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    assert "webhook_url" in document["EnqueueRequest"]["properties"]

    off = keyed_server.with_key(key)
    assert "webhook_url" not in off.http.get("/models").json()["data"][0]["x-paddock-parameters"]
    off.http.close()


@pytest.mark.parametrize("route", [*ROUTES, "/estimate"])
def test_a_server_without_the_setting_names_it(route: str, tenant: ServerProcess) -> None:
    answer = tenant.http.post(route, json={**SMALL, "webhook_url": URL})

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == OFF
