"""Event numbers: each tenant's completions are numbered from 1, without gaps, in the order of their commits."""

import asyncio

import pytest

from server.core.generation import Generation, Status
from server.storage.db.records import QueueLimits, StaleAttemptError
from server.storage.db.statements.history import EVENTS_LIMIT
from tests.contract.store.examples import Clock, claimed, new, of_tenants, queued, read, released
from tests.support.records import StandaloneStore as Store


async def finished(store: Store, tenant: str = "") -> Generation:
    """A generation that has just succeeded."""
    await of_tenants(store, [tenant])
    held = await store.attempts.claim("me", 60)
    assert held is not None
    assert held.tenant == tenant
    return await store.attempts.succeed(held, "a.mp4")


async def numbers(store: Store, tenant: str = "", after: int = 0) -> list[int | None]:
    return [each.event_number for each in await store.history.completed_after(after, tenant)]


async def test_each_tenant_has_numbers_of_its_own(store: Store) -> None:
    ended = [await finished(store, tenant) for tenant in "aabab"]

    assert [each.event_number for each in ended] == [1, 2, 1, 3, 2]
    assert await numbers(store, "a") == [1, 2, 3]
    assert await numbers(store, "a", after=2) == [3]
    assert await numbers(store, "b") == [1, 2]
    assert await numbers(store, "c") == []


async def test_a_failure_has_a_number_at_once_and_a_cancellation_has_none(store: Store) -> None:
    over = [new(status=Status.FAILED, completed_at=1.0, error_message="No."), new()]
    recorded = await store.submissions.insert([*over, new(status=Status.FAILED, completed_at=1.0)], QueueLimits(10))
    assert [each.event_number for each in recorded] == [1, None, 2]

    await store.submissions.cancel(over[1].id, "")
    assert (await read(store, over[1].id)).event_number is None
    (failed,) = [await store.attempts.fail(await claimed(store), "No luck.")]
    assert failed.event_number == 3
    assert await numbers(store) == [1, 2, 3]


async def test_an_attempt_that_holds_nothing_takes_no_number(store: Store) -> None:
    held = await claimed(store)
    await store.submissions.cancel(held.id, "")
    with pytest.raises(StaleAttemptError):
        await store.attempts.succeed(held, "late.mp4")

    assert (await finished(store)).event_number == 1


async def test_a_generation_that_returns_to_the_queue_has_no_number_yet(store: Store) -> None:
    returned = await released(store, await claimed(store))

    assert returned.event_number is None
    assert await numbers(store) == []


async def test_servers_that_finish_at_the_same_time_share_the_numbers(store: Store, twin: Store) -> None:
    await queued(store, 16)
    claims = [(server, await server.attempts.claim(name, 60)) for server, name in ((store, "me"), (twin, "twin")) * 8]

    async def finish(server: Store, held: Generation | None) -> int | None:
        assert held is not None
        return (await server.attempts.succeed(held, "a.mp4")).event_number

    taken = await asyncio.gather(*(finish(server, held) for server, held in claims))

    assert sorted(number or 0 for number in taken) == list(range(1, 17))
    assert await numbers(store) == list(range(1, 17))


async def test_many_are_read_in_parts_and_removed_ones_are_skipped(store: Store) -> None:
    failed = [new(status=Status.FAILED, completed_at=1.0) for _ in range(EVENTS_LIMIT + 5)]
    await store.submissions.insert(failed, QueueLimits(10))
    await store.expiry.remove([failed[2].id], "")

    first = await numbers(store)
    assert first == [1, 2, *range(4, EVENTS_LIMIT + 2)]
    assert await numbers(store, after=EVENTS_LIMIT + 1) == [*range(EVENTS_LIMIT + 2, EVENTS_LIMIT + 6)]


async def test_completions_between_two_moments_begin_at_a_number(store: Store, clock: Clock) -> None:
    ends = []
    for tenant in "abaa":
        ends.append(clock.now)
        await finished(store, tenant)
        clock.now += 10

    async def before(since: float, until: float) -> int:
        return (await store.history.event_numbers(since, until, "a"))[0]

    assert await before(ends[0], clock.now) == 0
    assert await before(ends[0] + 1, clock.now) == 1
    assert await before(ends[3], clock.now) == 2
    assert await before(ends[3] + 1, clock.now) == 3
    assert await before(0, ends[1]) == 0


async def test_the_newest_number_outlives_its_generation(store: Store, clock: Clock) -> None:
    ended = await finished(store)
    await store.expiry.remove([ended.id], "")

    assert await store.history.event_numbers(clock.now - 1, clock.now + 1, "") == (1, 1)
    assert (await finished(store)).event_number == 2
