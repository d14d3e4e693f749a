"""What goes into the store, comes out again, and is cancelled."""

import asyncio
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from sqlalchemy import select, update

from pipelines.core.request import RequestLora
from server.core.generation import ENHANCED_PROMPT, Generation, Origin, Status
from server.storage.db.records import (
    Filters,
    IdempotencyKeyReusedError,
    IdempotentRequest,
    QueueLimitError,
    QueueLimits,
)
from server.storage.db.schema import generations, requests
from server.storage.db.session import Pool
from server.storage.db.statements.submissions import IDEMPOTENCY_SECONDS
from tests.contract.store.examples import (
    PARAMS,
    Clock,
    claimed,
    new,
    queued,
    read,
    released,
)
from tests.support.records import StandaloneStore as Store
from tests.support.server_process import PATIENCE


async def test_what_goes_in_comes_out(store: Store) -> None:
    generation = new(target_namespace="ox", target_repo="videos", target_directory="a/b", tenant="me")
    await store.submissions.insert([generation], QueueLimits(1))

    placed = await store.history.get(generation.id, "me")

    assert placed is not None
    assert placed.queue_position == 1
    assert replace(placed.generation, seq=0) == generation


async def test_another_tenants_generation_does_not_exist(store: Store) -> None:
    (generation,) = await queued(store, tenant="me")

    assert await store.history.get(generation.id, "you") is None
    assert await store.submissions.cancel(generation.id, "you") is None
    assert await store.newest(Filters(tenant="you")) == []
    assert (await store.page(Filters(tenant="you"), 1, 10)).total == 0
    assert await store.completed_between(0, 1e10, "you") == []


async def test_an_insert_over_the_limit_records_nothing(store: Store) -> None:
    await queued(store, 2)

    with pytest.raises(QueueLimitError):
        await store.submissions.insert([new(), new()], QueueLimits(3))
    await store.submissions.insert([new(status=Status.FAILED) for _ in range(5)], QueueLimits(2))

    assert await store.history.queued() == 2


async def test_a_limit_holds_for_inserts_at_the_same_instant(store: Store, rival: Store) -> None:
    inserts = [one.submissions.insert([new()], QueueLimits(10)) for one in (store, rival) for _ in range(15)]

    ended = await asyncio.gather(*inserts, return_exceptions=True)
    refused = [error for error in ended if isinstance(error, BaseException)]

    assert len(refused) == 20
    assert {type(error) for error in refused} == {QueueLimitError}
    assert await store.history.queued() == 10


async def test_one_tenant_may_not_fill_the_queue(store: Store) -> None:
    limits = QueueLimits(10, per_tenant=2)
    await store.submissions.insert([new(tenant="me"), new(tenant="me")], limits)

    with pytest.raises(QueueLimitError) as caught:
        await store.submissions.insert([new(tenant="me")], limits)
    await store.submissions.insert([new(tenant="you")], limits)

    assert (caught.value.limit, caught.value.is_per_tenant) == (2, True)
    assert await store.history.queued() == 3


async def test_each_tenant_leaves_half_of_the_places_to_others(store: Store) -> None:
    async def fill(tenant: str) -> int:
        for count in range(20):
            try:
                await store.submissions.insert([new(tenant=tenant)], QueueLimits(10))
            except QueueLimitError:
                return count
        raise AssertionError("no limit")

    assert [await fill(tenant) for tenant in ("me", "you", "them", "us")] == [5, 3, 1, 1]
    # who needs no key shares with nobody
    for tenant in ("me", "you", "them", "us"):
        for each in await store.newest(Filters(tenant=tenant)):
            await store.submissions.cancel(each.generation.id, tenant)
    assert await fill("") == 10


async def test_a_request_that_comes_twice_is_recorded_once(store: Store, twin: Store, clock: Clock) -> None:
    once, first = IdempotentRequest("a-key", "digest"), [new(tenant="me"), new(tenant="me")]
    assert await store.submissions.insert(first, QueueLimits(10), once) is first

    # also through another server and over the limit, and with its present status
    await store.submissions.cancel(first[0].id, "me")
    again = await twin.submissions.insert([new(tenant="me")], QueueLimits(0), once)

    assert [(each.id, each.status) for each in again] == [
        (first[0].id, Status.CANCELLED),
        (first[1].id, Status.QUEUED),
    ]
    with pytest.raises(IdempotencyKeyReusedError):
        await store.submissions.insert([new(tenant="me")], QueueLimits(10), IdempotentRequest("a-key", "another"))
    # the same key of another tenant is another key, and after a day this one is new
    await store.submissions.insert([new(tenant="you")], QueueLimits(10), once)
    clock.now += IDEMPOTENCY_SECONDS + 1
    later = [new(tenant="me")]
    assert await store.submissions.insert(later, QueueLimits(10), IdempotentRequest("a-key", "another")) is later


async def test_expired_idempotency_keys_are_removed_a_few_at_a_time(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.db.statements.submissions._EXPIRED_AT_ONCE", 2)
    for number in range(5):
        await store.submissions.insert([new(tenant="me")], QueueLimits(20), IdempotentRequest(str(number), "digest"))
    clock.now += IDEMPOTENCY_SECONDS + 1

    # an expired key is new, whether it has been removed or not
    for number in (4, 3):
        later = [new(tenant="me")]
        assert await store.submissions.insert(later, QueueLimits(20), IdempotentRequest(str(number), "other")) is later
    with store.submissions._session.read() as tx:
        assert sorted(tx.scalars(select(requests.c.key))) == ["3", "4"]


async def test_requests_at_the_same_instant_are_one(store: Store, twin: Store) -> None:
    inserts = [
        one.submissions.insert([new()], QueueLimits(100), IdempotentRequest("a-key", "digest"))
        for one in (store, twin)
        for _ in range(10)
    ]

    made = await asyncio.gather(*inserts)

    assert len({recorded[0].id for recorded in made}) == 1
    assert await store.history.queued() == 1


async def test_what_was_removed_since_is_made_again(store: Store) -> None:
    once, first = IdempotentRequest("a-key", "digest"), [new(tenant="me")]
    await store.submissions.insert(first, QueueLimits(10), once)
    await store.submissions.cancel(first[0].id, "me")
    await store.expiry.remove([first[0].id], "me")

    second = [new(tenant="me")]

    assert await store.submissions.insert(second, QueueLimits(10), once) is second
    assert await store.submissions.insert([new(tenant="me")], QueueLimits(10), once) == await of(store, second)


@pytest.mark.parametrize(("origin", "attempts", "is_new"), [("sync", 0, True), ("sync", 1, False), ("queue", 0, False)])
async def test_who_was_told_to_come_back_is_served(store: Store, origin: str, attempts: int, is_new: bool) -> None:
    awaited = None if attempts else ENHANCED_PROMPT
    once, first = IdempotentRequest("a-key", "digest"), [new(origin=Origin(origin), awaited_input=awaited)]
    await store.submissions.insert(first, QueueLimits(10), once)
    if attempts:
        held = await store.attempts.claim("me", 60)
        assert held is not None
        await store.attempts.fail(held, "it broke")
    else:
        await store.awaited_inputs.failed("", ENHANCED_PROMPT, [first[0].id], "the model is down")

    (repeated,) = await store.submissions.insert([new(origin=Origin(origin))], QueueLimits(10), once)

    assert (repeated.id != first[0].id) is is_new


async def test_who_hung_up_and_comes_back_is_served(store: Store) -> None:
    once, first = IdempotentRequest("a-key", "digest"), [new(origin=Origin.SYNC), new(origin=Origin.SYNC)]
    await store.submissions.insert(first, QueueLimits(10), once)
    again = [new(origin=Origin.SYNC), new(origin=Origin.SYNC)]
    assert [each.id for each in await store.submissions.insert(again, QueueLimits(10), once)] == [
        each.id for each in first
    ]

    await store.submissions.cancel(first[1].id, "", unless_started=True)

    assert await store.submissions.insert(again, QueueLimits(10), once) is again


async def of(store: Store, generations: list[Generation]) -> list[Generation]:
    found = [await store.history.get(generation.id, generation.tenant) for generation in generations]
    return [placed.generation for placed in found if placed is not None]


async def test_loras_are_kept_and_rows_from_before_have_none(store: Store) -> None:
    params = replace(PARAMS, loras=(RequestLora("watercolor", 0.1), RequestLora("b", -1.0)))
    generation, older = new(params=params), new()
    await store.submissions.insert([generation, older], QueueLimits(2))
    with store._session.write() as tx:
        (row,) = tx.execute(select(generations).where(generations.c.id == older.id)).mappings()
        before = {name: value for name, value in row["params"].items() if name != "loras"}
        tx.execute(update(generations).where(generations.c.id == older.id).values(params=before))

    assert [each.params for each in await of(store, [generation, older])] == [params, PARAMS]


async def test_any_text_is_kept_and_looked_for(store: Store) -> None:
    odd = "a\0b\N{OX}\\u0000"
    generation = new(target_namespace=odd, parameters={"prompt": odd}, params=replace(PARAMS, prompt=odd))
    await store.submissions.insert([generation], QueueLimits(1))

    (placed,) = await store.newest(Filters(namespace=odd))

    assert placed.generation.parameters == {"prompt": odd}
    assert placed.generation.params == generation.params
    # PostgreSQL cannot hold one character
    assert placed.generation.target_namespace in (odd, odd.replace("\0", "\N{REPLACEMENT CHARACTER}"))
    assert await store.history.get("\0", "") is None
    assert await store.submissions.cancel("\0", "\0") is None


async def test_requests_of_a_tenant_take_turns_and_leave_threads_to_others(store: Store) -> None:
    over = Event()
    pool = store.submissions._session.threads[Pool.WRITES]
    occupied = [pool.submit(over.wait) for _ in range(pool._max_workers)]
    mine: list[asyncio.Task[Any]] = [
        asyncio.create_task(store.submissions.insert([new(tenant="a")], QueueLimits(20))) for _ in range(10)
    ]
    mine += [asyncio.create_task(store.submissions.cancel("none", "a")) for _ in range(10)]
    other = asyncio.create_task(store.submissions.insert([new(tenant="b")], QueueLimits(20)))
    await asyncio.sleep(0.05)
    # one of each tenant, besides those that occupy the threads
    assert pool._work_queue.qsize() == 2
    mine.pop().cancel()

    over.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*mine, other)
    assert all(each.result() for each in occupied)
    assert not store.submissions._turns


async def test_cancelling_returns_what_it_was_and_happens_once(store: Store) -> None:
    (waiting,) = await queued(store)
    before = await store.submissions.cancel(waiting.id, "")
    assert before is not None
    assert before.status is Status.QUEUED
    assert await store.submissions.cancel(waiting.id, "") is None

    held = await claimed(store)
    assert await store.submissions.cancel(held.id, "", unless_started=True) is None
    await released(store, held)
    assert await store.submissions.cancel(held.id, "", unless_started=True) is None
    before = await store.submissions.cancel(held.id, "")
    assert before is not None
    assert (before.status, before.attempt) == (Status.QUEUED, 1)
    assert (await read(store, held.id)).status is Status.CANCELLED
    held = await claimed(store)
    before = await store.submissions.cancel(held.id, "")
    assert before is not None
    assert before.status is Status.PROCESSING


async def test_sync_generations_that_never_started_end_with_their_server(store: Store) -> None:
    (asked_by_queue,) = await queued(store)
    (started,) = await queued(store, origin=Origin.SYNC, accepted_by="me")
    (unstarted,) = await queued(store, origin=Origin.SYNC, accepted_by="me")
    await store.attempts.claim("me", 60)
    held = await store.attempts.claim("me", 60)
    assert held is not None
    assert held.id == started.id
    await released(store, held)

    assert await store.submissions.cancel_waiting_sync() == 1

    assert (await read(store, unstarted.id)).status is Status.CANCELLED
    assert (await read(store, started.id)).status is Status.QUEUED
    assert (await read(store, asked_by_queue.id)).status is Status.PROCESSING


async def test_records_outlive_the_store(url: str) -> None:
    store = Store(url)
    (generation,) = await queued(store)
    store.close()

    again = Store(url)
    assert replace(await read(again, generation.id), seq=0) == generation
    again.close()
