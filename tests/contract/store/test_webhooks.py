"""Events for webhooks: recorded with the changes they tell of, delivered by one server at a time, kept for a while."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from server.core.generation import Generation, Origin, Status, Webhook, WebhookEvent
from server.core.retry import Blame, Interruption, decide
from server.storage.db.records import Marking, QueueLimits, StaleAttemptError
from server.storage.db.schema import webhook_deliveries
from server.storage.webhooks.deliveries import LEASE_SECONDS, Delivery
from tests.contract.store.examples import Clock, new, queued, released
from tests.support.records import StandaloneStore as Store

ALL = tuple(str(event) for event in WebhookEvent)
WEBHOOK = Webhook("https://hooks.example/in", ALL, "http://me")
TERMINAL_ONLY = replace(WEBHOOK, events=tuple(event for event in ALL if event != WebhookEvent.STARTED))


async def started(store: Store, **changes: Any) -> Generation:
    await queued(store, **{"webhook": WEBHOOK, **changes})
    held = await store.attempts.claim("me", 60)
    assert held is not None
    return held


async def due(store: Store) -> list[Delivery]:
    """All that is due now; this server holds it from now on."""
    found = []
    while (delivery := await store.deliveries.claim()) is not None:
        found.append(delivery)
    return found


async def types(store: Store) -> list[str]:
    return sorted(each.type for each in await due(store))


def count(store: Store) -> int:
    with store.engine.connect() as tx:
        return tx.scalar(select(func.count()).select_from(webhook_deliveries)) or 0


def failures(found: Sequence[Delivery]) -> list[int]:
    return [each.failures for each in found]


async def test_each_end_of_a_generation_is_an_event_with_the_row_as_of_then(store: Store, clock: Clock) -> None:
    held = await started(store, tenant="t", warnings=("a warning",))
    (begun,) = await due(store)
    assert (begun.type, begun.generation) == (WebhookEvent.STARTED, held)
    await store.library.mark("t", [held.id], Marking(add=["lake"]))

    clock.now += 5
    done = await store.attempts.succeed(held, "video.mp4", {"device": "cpu"})
    (ended,) = await due(store)

    assert (ended.type, ended.created_at, ended.generation) == (WebhookEvent.SUCCEEDED, clock.now, done)
    assert ended.generation.params == held.params
    assert (ended.generation.artifact, ended.tags) == ("video.mp4", ["lake"])
    assert ended.id != begun.id


async def test_failures_and_cancellations_are_events_wherever_they_are_recorded(store: Store) -> None:
    await store.attempts.fail(await started(store), "It failed.")
    assert await types(store) == ["generation.failed", "generation.started"]

    at_once = new(webhook=WEBHOOK, status=Status.FAILED, error_message="no", completed_at=1.0)
    await store.submissions.insert([at_once], QueueLimits(10))
    (delivery,) = await due(store)
    assert (delivery.type, delivery.generation.error_message) == ("generation.failed", "no")

    (waiting,) = await queued(store, webhook=WEBHOOK)
    await store.submissions.cancel(waiting.id, "")
    (delivery,) = await due(store)
    assert (delivery.type, delivery.generation.status) == ("generation.cancelled", Status.CANCELLED)
    assert delivery.generation.completed_at is not None

    await queued(store, webhook=WEBHOOK, awaited_input="https://a.example/b")
    ids = [each.generation_id for each in await store.awaited_inputs.awaited()]
    await store.awaited_inputs.failed("", "https://a.example/b", ids, "input_image is not there.")
    (delivery,) = await due(store)
    assert delivery.generation.error_message == "input_image is not there."

    held = await started(store)
    await due(store)
    fatal = decide(replace(held, worker_deaths=100), Interruption(Blame.WORKER, 0.0, 0.0, "It died."))
    await store.attempts.retry(held, fatal)
    assert await types(store) == ["generation.failed"]


async def test_clients_that_left_while_the_server_was_down_have_their_generations_cancelled(store: Store) -> None:
    await queued(store, 2, webhook=WEBHOOK, origin=Origin.SYNC, accepted_by="me")

    assert await store.submissions.cancel_waiting_sync() == 2

    assert await types(store) == ["generation.cancelled"] * 2


async def test_only_the_events_that_were_asked_for_are_recorded(store: Store) -> None:
    plain = await started(store, webhook=None)
    await store.attempts.succeed(plain, "a.mp4")
    only = await started(store, webhook=TERMINAL_ONLY)
    assert await due(store) == []

    await store.attempts.succeed(only, "b.mp4")

    assert await types(store) == ["generation.succeeded"]


async def test_a_generation_starts_once_however_often_it_is_attempted(store: Store) -> None:
    await released(store, await started(store))
    again = await store.attempts.claim("me", 60)
    assert again is not None
    assert again.attempt == 2

    assert await types(store) == ["generation.started"]


async def test_a_change_that_is_not_made_is_no_event(store: Store) -> None:
    held = await started(store, webhook=TERMINAL_ONLY)
    await store.submissions.cancel(held.id, "")

    with pytest.raises(StaleAttemptError):
        await store.attempts.succeed(held, "late.mp4")
    assert await store.submissions.cancel(held.id, "") is None

    assert await types(store) == ["generation.cancelled"]


async def test_a_delivery_is_one_servers_until_its_lease_has_expired(store: Store, twin: Store, clock: Clock) -> None:
    await started(store)
    mine = await store.deliveries.claim()
    assert mine is not None
    assert await twin.deliveries.claim() is None

    clock.now += LEASE_SECONDS
    theirs = await twin.deliveries.claim()
    assert theirs is not None
    assert (theirs.id, theirs.generation) == (mine.id, mine.generation)

    # what the first one records too late changes nothing
    await store.deliveries.failed(mine, "too late", None)
    clock.now += LEASE_SECONDS
    assert failures(await due(store)) == [0]


async def test_what_arrived_is_not_sent_again_and_forgotten_later(store: Store, clock: Clock) -> None:
    await started(store)
    (delivery,) = await due(store)
    await store.deliveries.delivered(delivery)
    clock.now += 10 * LEASE_SECONDS

    assert await due(store) == []
    await store.deliveries.remove_ended(clock.now - 10 * LEASE_SECONDS)
    assert count(store) == 1
    await store.deliveries.remove_ended(clock.now)
    assert count(store) == 0


async def test_a_failed_attempt_is_made_again_after_a_pause_unless_it_was_the_last(store: Store, clock: Clock) -> None:
    await started(store)
    (first,) = await due(store)
    await store.deliveries.failed(first, "is a URL that does not answer", 30)
    clock.now += 29
    assert await due(store) == []

    clock.now += 1
    (second,) = await due(store)
    assert (second.id, second.failures) == (first.id, 1)

    await store.deliveries.failed(second, "is a URL that does not answer", None)
    clock.now += 1e6
    assert await due(store) == []
    with store.engine.connect() as tx:
        (row,) = tx.execute(select(webhook_deliveries)).mappings()
    assert (row["failures"], row["error"], row["snapshot"]) == (2, "is a URL that does not answer", None)


async def test_a_server_that_restarts_sends_at_once_what_it_held(store: Store, twin: Store) -> None:
    await started(store)
    await started(store)
    mine, theirs = await store.deliveries.claim(), await twin.deliveries.claim()
    assert mine is not None
    assert theirs is not None

    await store.deliveries.release()

    assert [each.id for each in await due(store)] == [mine.id]


async def test_busy_tenants_leave_their_turn_to_others(store: Store) -> None:
    await started(store, tenant="a")
    await started(store, tenant="b")

    found = await store.deliveries.claim(["a"])

    assert found is not None
    assert found.generation.tenant == "b"
    assert await store.deliveries.claim(["a", "b"]) is None


async def test_of_too_many_that_wait_the_oldest_are_given_up(store: Store, clock: Clock) -> None:
    ids = []
    for _ in range(3):
        clock.now += 1
        ids.append((await started(store)).id)
    await started(store, tenant="other")

    assert await store.deliveries.give_up_excess(2) == 1
    assert await store.deliveries.give_up_excess(2) == 0

    left = [each.generation.id for each in await due(store) if not each.generation.tenant]
    assert left == ids[1:]


async def test_an_event_outlives_its_generation(store: Store) -> None:
    held = await started(store, webhook=TERMINAL_ONLY)
    await store.attempts.succeed(held, "video.mp4")
    await store.expiry.remove([held.id], "")

    (delivery,) = await due(store)

    assert delivery.generation.id == held.id
