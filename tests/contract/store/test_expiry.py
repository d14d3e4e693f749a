"""What is removed, and what is kept."""

from dataclasses import replace

import pytest

from server.core.generation import Generation, Status
from server.storage.db.records import (
    Filters,
    StaleAttemptError,
)
from tests.contract.store.examples import Clock, claimed, queued, read
from tests.support.records import StandaloneStore as Store


async def test_what_runs_is_told_from_what_waits_and_what_is_over(store: Store) -> None:
    running = await claimed(store)
    over = await claimed(store)
    await store.attempts.fail(over, "no")
    (waiting,) = await queued(store)

    assert await store.expiry.running([waiting.id, over.id, running.id, "none"]) == {running.id: 1}


async def test_files_that_no_row_names_are_told_apart(store: Store) -> None:
    done, cancelled, running = [await claimed(store) for _ in range(3)]
    await store.attempts.succeed(done, "done.2.mp4")
    await store.submissions.cancel(cancelled.id, "")
    artifacts = {
        "done.1.mp4": done.id,
        "done.2.mp4": done.id,
        "cancelled.1.mp4": cancelled.id,
        "running.1.mp4": running.id,
        "unknown.1.mp4": "unknown",
    }

    assert sorted(await store.expiry.superseded(artifacts)) == ["cancelled.1.mp4", "done.1.mp4"]
    assert await store.expiry.unknown(artifacts) == ["unknown.1.mp4"]
    assert await store.expiry.superseded({}) == await store.expiry.unknown({}) == []


async def ended(store: Store, clock: Clock, count: int) -> list[Generation]:
    """Generations that succeeded a minute apart, each with a video; none other is queued."""
    finished = []
    for number in range(count):
        finished.append(await store.attempts.succeed(await claimed(store), f"{number}.mp4"))
        clock.now += 60
    return finished


async def test_what_is_over_can_be_removed_by_its_owner_only(store: Store, clock: Clock) -> None:
    (over,) = await ended(store, clock, 1)
    running = await claimed(store)
    (waiting,) = await queued(store)

    assert await store.expiry.remove([over.id], "somebody else") == ([], {})
    assert await store.expiry.remove(["unknown"], "") == ([], {})
    others = {running.id: Status.PROCESSING, waiting.id: Status.QUEUED}
    assert await store.expiry.remove([*others], "") == ([], others)
    assert await store.expiry.remove([running.id, over.id, "unknown", waiting.id], "") == ([over], others)
    assert await store.history.get(over.id, "") is None
    assert [entry["generation_id"] for entry in await store.attempt_log()] == [running.id]


async def test_the_oldest_that_ended_are_forgotten_and_what_is_active_is_not(store: Store, clock: Clock) -> None:
    failed = await store.attempts.fail(await claimed(store), "No luck.")
    clock.now += 60
    first, second, third = await ended(store, clock, 3)
    running = await claimed(store)
    (waiting,) = await queued(store)
    clock.now += 1_000_000

    assert await store.expiry.forget(first.completed_at or 0, 10) == [failed]
    assert await store.expiry.forget(clock.now, 1) == [first]
    assert await store.expiry.forget((second.completed_at or 0) + 1, 10) == [second]
    assert await store.expiry.forget((second.completed_at or 0) + 1, 10) == []

    rows = await store.newest(Filters())
    assert [placed.generation.id for placed in rows] == [waiting.id, running.id, third.id]
    assert [entry["generation_id"] for entry in await store.attempt_log()] == [third.id, running.id]
    with pytest.raises(StaleAttemptError):
        await store.attempts.fail(first, "late")


async def test_a_withdrawn_video_leaves_its_row_and_a_reason(store: Store, clock: Clock) -> None:
    await store.attempts.fail(await claimed(store), "No luck.")
    first, second, third = await ended(store, clock, 3)
    await claimed(store)

    assert await store.expiry.oldest_with_files(clock.now, 2) == [first, second]
    assert await store.expiry.oldest_with_files(second.completed_at or 0, 2) == [first]
    await store.expiry.withdraw([first, second], "Too much.")

    now = await read(store, first.id)
    assert now == replace(first, artifact=None, error_message="Too much.")
    assert await store.expiry.oldest_with_files(clock.now, 2) == [third]
    assert await store.expiry.superseded({"0.mp4": first.id, "2.mp4": third.id}) == ["0.mp4"]


async def test_what_is_over_or_unknown_is_told_from_what_goes_on(store: Store) -> None:
    running, waiting, over = await queued(store, 3)
    await store.submissions.cancel(over.id, "")
    await store.attempts.claim("me", 60)

    assert await store.expiry.ended([running.id, waiting.id, over.id, "unknown"]) == sorted([over.id, "unknown"])
    assert await store.expiry.ended([]) == []
