"""The loop that delivers: pauses, limits, what it gives up and logs, and a database that fails."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from server.api.links import Links
from server.api.serializers import MAX_EVENT_BYTES, webhook_event
from server.core.errors import RecordsUnavailableError
from server.core.events import Broker, Event
from server.core.generation import Generation, Status, Webhook
from server.core.settings.settings import Settings
from server.media.fetch.exchange import Exchanges
from server.service.notifications.webhooks import delivery as module
from server.service.notifications.webhooks.delivery import (
    MAX_AGE_SECONDS,
    MAX_AT_ONCE_OF_TENANT,
    PAUSES,
    WebhookDelivery,
    pause_after,
)
from server.service.notifications.webhooks.sender import WebhookSender
from server.service.notifications.webhooks.signing import secret_of
from server.service.notifications.webhooks.targets import DEFAULT_EVENTS
from server.storage.db.records import QueueLimits
from server.storage.db.schema import webhook_deliveries
from server.storage.webhooks.deliveries import Delivery
from tests.contract.store.examples import new
from tests.server.conftest import eventually
from tests.support.records import StandaloneStore as Store
from tests.support.webhook_host import URL, WebhookHost, webhook_host

WEBHOOK = Webhook(URL, DEFAULT_EVENTS, "http://me")


@pytest.fixture
def host() -> Iterator[WebhookHost]:
    with webhook_host() as host:
        yield host


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'paddock.db'}", server="me")
    yield store
    store.close()


@asynccontextmanager
async def delivering(store: Store, host: WebhookHost, **settings: Any) -> AsyncIterator[Broker]:
    """The loop, running."""
    net, broker = host.internet(), Broker()
    loop = WebhookDelivery(
        store.deliveries,
        broker,
        lambda delivery: f"{delivery.id} {delivery.generation.tenant}".encode(),
        lambda tenant: secret_of("key", tenant),
        lambda tenant: tenant != "revoked",
        Settings(**{"webhooks": "all", **settings}),
        WebhookSender(Exchanges(net.resolve, net)),
    )
    running = asyncio.create_task(loop.run())
    try:
        yield broker
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def failed(store: Store, count: int = 1, **changes: Any) -> Generation:
    """Generations whose failures are to be told."""
    ended = {"status": Status.FAILED, "completed_at": 1.0, "webhook": WEBHOOK}
    found = [new(**{**ended, **changes}) for _ in range(count)]
    await store.submissions.insert(found, QueueLimits(1000))
    return found[0]


async def test_an_event_wakes_the_loop_and_is_sent_once(
    store: Store, host: WebhookHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 1000.0)
    async with delivering(store, host) as broker:
        await asyncio.sleep(0.2)
        broker.publish(Event(await failed(store)))
        await eventually(lambda: host.arrived)
        await asyncio.sleep(0.2)

    assert len(host.received) == 1
    assert host.received[0].body.decode() == f"{host.received[0].id} "


async def test_an_event_that_never_arrives_is_given_up_with_a_warning(
    store: Store, host: WebhookHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    host.status = lambda: 503
    generation = await failed(store)

    with caplog.at_level(logging.WARNING, "paddock.webhooks"):
        async with delivering(store, host):
            await eventually(lambda: caplog.messages)

    assert len(host.received) == 3
    assert len({each.id for each in host.received}) == 1
    (sentence,) = caplog.messages
    assert sentence.startswith(f"generation.failed of {generation.id} (msg_")
    assert sentence.endswith("given up after 3 attempts: the webhook is a URL that answers with HTTP status 503")


@pytest.mark.parametrize("setting", ["", "other.example"])
async def test_a_host_that_is_no_longer_allowed_is_told_nothing(
    store: Store, host: WebhookHost, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    await failed(store)

    with caplog.at_level(logging.WARNING, "paddock.webhooks"):
        async with delivering(store, host, webhooks=setting):
            await eventually(lambda: caplog.messages)

    assert host.received == []
    assert "PADDOCK_WEBHOOKS" in caplog.messages[0]


async def test_events_of_a_key_that_was_revoked_are_not_sent(
    store: Store, host: WebhookHost, caplog: pytest.LogCaptureFixture
) -> None:
    await failed(store, tenant="revoked")
    await failed(store, tenant="valid")

    with caplog.at_level(logging.WARNING, "paddock.webhooks"):
        async with delivering(store, host):
            await eventually(lambda: caplog.messages and host.arrived)

    assert [each.body.decode().partition(" ")[2] for each in host.received] == ["valid"]
    assert "which is no longer valid" in caplog.messages[0]


async def test_an_event_that_cannot_be_read_keeps_no_others_back(
    store: Store, host: WebhookHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    await failed(store)
    with store.engine.begin() as tx:
        tx.execute(update(webhook_deliveries).values(snapshot={"seq": 1, "status": "resting"}, due_at=0.0))
    await failed(store)
    with store.engine.begin() as tx:
        is_newer = webhook_deliveries.c.due_at > 0
        (snapshot,) = tx.scalars(select(webhook_deliveries.c.snapshot).where(is_newer))
        tx.execute(update(webhook_deliveries).where(is_newer).values(snapshot={**snapshot, "of_a_later_version": 1}))

    async with delivering(store, host):
        await eventually(lambda: host.arrived)

    assert len(host.received) == 1
    assert "events for webhooks were not read" in caplog.messages


async def test_a_slow_receiver_of_one_key_leaves_room_for_others(store: Store, host: WebhookHost) -> None:
    host.delay = 0.5
    await failed(store, 3 * MAX_AT_ONCE_OF_TENANT, tenant="many")
    await failed(store, tenant="one")

    async with delivering(store, host):
        await eventually(lambda: len(host.received) == 3 * MAX_AT_ONCE_OF_TENANT + 1)

    tenants = [each.body.decode().partition(" ")[2] for each in host.received]
    assert tenants.index("one") <= MAX_AT_ONCE_OF_TENANT


async def test_a_database_that_fails_loses_no_event(
    store: Store, host: WebhookHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    await failed(store)
    whole, failures = store.deliveries.claim, iter([True, True, False])

    async def claim(busy: Any) -> Delivery | None:
        if next(failures, False):
            raise RecordsUnavailableError("no", "Free some space.")
        return await whole(busy)

    monkeypatch.setattr(store.deliveries, "claim", claim)
    async with delivering(store, host):
        await eventually(lambda: host.arrived)

    assert len(host.received) == 1


def attempt(failures: int, age: float = 0.0) -> Delivery:
    return Delivery("msg_1", "generation.failed", time.time() - age, failures, "me/1", new(webhook=WEBHOOK))


def test_pauses_grow_to_hours_vary_and_end() -> None:
    for failures, pause in enumerate(PAUSES):
        drawn = {pause_after(attempt(failures)) for _ in range(20)}
        assert len(drawn) > 1
        assert all(each is not None and 0.8 * pause <= each <= pause for each in drawn)
    assert 20 * 3600 < sum(PAUSES) < 25 * 3600
    assert pause_after(attempt(len(PAUSES))) is None
    assert pause_after(attempt(0, MAX_AGE_SECONDS)) is None


def body(generation: Generation) -> bytes:
    delivery = replace(attempt(0), generation=generation)
    # without files there are no links
    return webhook_event(delivery, Links("http://me", None, None))  # type: ignore[arg-type]


def test_a_body_has_a_limit_whatever_the_request_had() -> None:
    usual = new(webhook=WEBHOOK, parameters={"prompt": "an ox", "other": 1})
    assert b'"other":1' in body(usual)

    huge = replace(usual, parameters={"prompt": "牛" * MAX_EVENT_BYTES})

    assert len(body(huge)) < 4096
    assert usual.id.encode() in body(huge)
