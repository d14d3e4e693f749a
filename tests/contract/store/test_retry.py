"""Attempts without a result: another attempt, the end of the queue, or failure."""

from dataclasses import replace

import pytest

from server.core.generation import Generation, Outcome, Status
from server.storage.db.records import (
    Filters,
    QueueLimitError,
    QueueLimits,
)
from tests.contract.store.examples import (
    Clock,
    claimed,
    new,
    of_tenants,
    positions,
    queued,
    released,
    server_died,
    take,
    worker_died,
)
from tests.support.records import StandaloneStore as Store


async def test_progress_that_is_saved_outlives_the_attempt(store: Store) -> None:
    held = await claimed(store)
    await store.attempts.renew(held, 60, 0.5, None)

    assert (await released(store, held, 0.4)).progress == 0.4
    again = await store.attempts.claim("me", 60)
    assert again is not None
    assert again.progress == 0.4
    assert (await worker_died(store, again, 0.6, "killed", 0.55)).progress == 0.55


async def test_two_worker_deaths_without_progress_between_them_are_the_end(store: Store) -> None:
    held = await claimed(store)

    once = await worker_died(store, held, 0.3, "killed")
    assert (once.status, once.worker_deaths) == (Status.QUEUED, 1)
    further = await store.attempts.claim("me", 60)
    assert further is not None
    again = await worker_died(store, further, 0.6, "killed")
    assert (again.status, again.worker_deaths) == (Status.QUEUED, 1)
    last = await store.attempts.claim("me", 60)
    assert last is not None
    end = await worker_died(store, last, 0.6, "it was killed by SIGSEGV")

    assert end.status is Status.FAILED
    assert end.error_message is not None
    assert "died 2 times in a row" in end.error_message
    assert "SIGSEGV" in end.error_message


async def die_with_server(store: Store, times: int, saved: float = 0.0) -> list[Generation]:
    """Have the server die so often while it runs what is next, with a checkpoint; returns what became of each."""
    became = []
    for _ in range(times):
        held = await store.attempts.claim("me", 60)
        assert held is not None
        await store.attempts.renew(held, 60, saved, None)
        await store.attempts.expire_leases()
        (abandoned,) = await store.attempts.abandoned()
        became.append(await server_died(store, abandoned))
    return became


async def test_a_generation_keeps_its_place_for_two_deaths_of_its_server_and_then_goes_to_the_end(
    store: Store,
) -> None:
    deadly, *others = await queued(store, 4)

    assert [one.id for one in await die_with_server(store, 3)] == [deadly.id] * 3

    (later,) = await queued(store)
    rows = {placed.generation.id: placed for placed in await store.newest(Filters())}
    assert [rows[one.id].queue_position for one in (*others, deadly, later)] == [1, 2, 3, 4, 5]
    # it is still where it was in the history
    assert list(rows) == [later.id, *(one.id for one in reversed(others)), deadly.id]
    assert rows[deadly.id].generation.server_deaths == 3
    taken = await take(store, [None])
    assert [one.id for one in taken] == [*(one.id for one in others), deadly.id, later.id]


async def test_ten_deaths_of_its_server_without_progress_are_the_end(store: Store, clock: Clock) -> None:
    await queued(store)
    *kept, end = await die_with_server(store, 10, saved=0.3)

    assert {one.status for one in kept} == {Status.QUEUED}
    assert (end.status, end.server_deaths, end.completed_at) == (Status.FAILED, 10, clock.now)
    assert end.error_message == (
        "The server died 10 times in a row while it ran this generation, without progress in between."
    )
    assert await store.attempts.claim("me", 60) is None
    assert {entry["outcome"] for entry in await store.attempt_log()} == {Outcome.ABANDONED}


async def test_a_checkpoint_that_is_further_than_any_before_counts_the_deaths_of_the_server_anew(
    store: Store,
) -> None:
    await queued(store)
    await die_with_server(store, 9, saved=0.3)

    further, *_, last = await die_with_server(store, 10, saved=0.4)

    assert (further.status, further.server_deaths, further.worker_deaths) == (Status.QUEUED, 1, 0)
    assert (further.progress, further.furthest) == (0.4, 0.4)
    assert last.status is Status.FAILED


async def test_the_end_of_the_queue_is_behind_every_tenant_and_model(store: Store) -> None:
    deadly, *waiting = await of_tenants(store, "xyyzz", "ababa")
    await die_with_server(store, 3)
    await of_tenants(store, "y", "a")

    told = await positions(store, "xyz", ["a"])
    # by a device that holds its model, and though its tenant has nothing else
    taken = await take(store, ["a"])

    assert [told[place] for place in sorted(told)] == [one.seq for one in taken]
    order = [one.id for one in taken]
    assert len(order) == 6
    assert {one.id for one in waiting} <= set(order[: order.index(deadly.id)])


async def test_the_end_of_the_queue_outlives_the_server(url: str) -> None:
    before = Store(url, server="me")
    deadly, other = await queued(before, 2)
    await die_with_server(before, 3)
    before.close()

    again = Store(url, server="me")
    assert [one.id for one in await take(again, [None])] == [other.id, deadly.id]
    again.close()


async def test_what_is_at_the_end_of_the_queue_counts_as_queued_and_can_be_cancelled(store: Store) -> None:
    deadly, other = await queued(store, 2, tenant="x")
    await die_with_server(store, 3)

    assert await store.history.queued() == 2
    with pytest.raises(QueueLimitError):
        await store.submissions.insert([new(tenant="x")], QueueLimits(10, per_tenant=2))
    assert await store.submissions.cancel(deadly.id, "x") is not None
    assert [one.id for one in await take(store, [None])] == [other.id]


async def test_a_generation_that_waits_at_the_end_stays_there_after_a_clean_stop(store: Store) -> None:
    (deadly,) = await queued(store)
    await die_with_server(store, 3)
    held = await store.attempts.claim("me", 60)
    assert held is not None
    assert held.deferred_behind is None
    (other,) = await queued(store)

    await released(store, held)

    assert [one.id for one in await take(store, [None])] == [other.id, deadly.id]


async def test_only_a_servers_own_claims_are_its_own(store: Store, rival: Store) -> None:
    held = replace(await claimed(store), owner="me/host/1")

    assert store.attempts.owns(held)
    assert rival.attempts.owns(held) == (not rival.is_shared)
