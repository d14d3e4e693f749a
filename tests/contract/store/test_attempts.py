"""Claims and their results: the database itself enforces the law of statuses."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.core.fair_queue import Weights
from server.core.generation import MAY_BECOME, TERMINAL, Generation, Outcome, Status
from server.storage.db.records import (
    StaleAttemptError,
)
from tests.contract.store.examples import (
    Clock,
    claimed,
    emptied,
    queued,
    read,
    released,
    server_died,
    worker_died,
)
from tests.support.records import StandaloneStore as Store


async def test_claims_are_first_in_first_out_by_sequence_not_by_clock(store: Store, clock: Clock) -> None:
    first, second = await queued(store, 2)
    clock.now -= 500
    (third,) = await queued(store, enqueued_at=clock.now)

    order = [held.id for _ in range(3) if (held := await store.attempts.claim("me", 60))]

    assert order == [first.id, second.id, third.id]
    assert await store.attempts.claim("me", 60) is None


async def test_a_claim_says_who_until_when_and_which_attempt(store: Store, clock: Clock) -> None:
    held = await claimed(store)

    assert (held.status, held.owner, held.attempt) == (Status.PROCESSING, "me", 1)
    assert held.lease_until == clock.now + 60
    assert held.started_at == clock.now
    assert await read(store, held.id) == held


async def test_what_a_claim_would_take_is_told_and_left_where_it_is(store: Store) -> None:
    assert await store.attempts.next(None) is None
    (first,), (other,) = await queued(store), await queued(store, model="another")

    told = await store.attempts.next(Weights("another"))
    assert told is not None
    assert (told.id, told.status, told.attempt) == (other.id, Status.QUEUED, 0)
    assert await store.attempt_log() == []
    taken = await store.attempts.claim("me", 60, Weights("another"))
    assert taken is not None
    assert taken.id == told.id
    following = await store.attempts.next(Weights("another"))
    assert following is not None
    assert following.id == first.id


async def test_racing_claims_never_share_a_generation(store: Store) -> None:
    await queued(store, 20)

    claims = await asyncio.gather(*(store.attempts.claim(f"owner {n}", 60) for n in range(30)))

    ids = [held.id for held in claims if held]
    assert len(ids) == len(set(ids)) == 20


async def test_a_cancel_and_an_end_at_the_same_instant_have_one_winner(store: Store, rival: Store) -> None:
    for _ in range(30):
        held = await claimed(store)
        ended, before = await asyncio.gather(
            store.attempts.succeed(held, "a.mp4"), rival.submissions.cancel(held.id, ""), return_exceptions=True
        )
        assert isinstance(ended, StaleAttemptError) == isinstance(before, Generation)
        assert isinstance(ended, StaleAttemptError | Generation), ended
    outcomes = [entry["outcome"] for entry in await store.attempt_log()]
    assert set(outcomes) <= {Outcome.SUCCEEDED, Outcome.CANCELLED}


async def test_a_cancel_and_a_claim_at_the_same_instant_agree(store: Store, rival: Store) -> None:
    for _ in range(30):
        (waiting,) = await queued(store)
        held, before = await asyncio.gather(store.attempts.claim("me", 60), rival.submissions.cancel(waiting.id, ""))
        assert before is not None
        assert (before.attempt, before.status is Status.PROCESSING) == ((1, True) if held else (0, False))
        assert (await read(store, waiting.id)).status is Status.CANCELLED


async def test_a_requeued_generation_keeps_its_place(store: Store) -> None:
    first, second = await queued(store, 2)
    held = await store.attempts.claim("me", 60)
    assert held is not None

    await released(store, held)

    placed = await store.history.get(first.id, "")
    assert placed is not None
    assert placed.queue_position == 1
    again = await store.attempts.claim("me", 60)
    assert again is not None
    assert (again.id, again.attempt) == (first.id, 2)
    other = await store.history.get(second.id, "")
    assert other is not None
    assert other.queue_position == 1


async def test_a_finished_generation_says_when_and_what(store: Store, clock: Clock) -> None:
    held = await claimed(store)
    clock.now += 5

    finished = await store.attempts.succeed(held, "a.mp4")

    assert finished == await read(store, held.id)
    assert (finished.status, finished.artifact, finished.progress) == (Status.SUCCEEDED, "a.mp4", 1.0)
    assert finished.completed_at == clock.now
    assert (finished.owner, finished.lease_until) == (None, None)
    assert await store.completed_between(clock.now - 1, clock.now + 1, "") == [finished]
    assert await store.completed_between(clock.now + 1, clock.now + 2, "") == []


async def test_a_video_with_a_sound_is_told(store: Store) -> None:
    silent, heard = await claimed(store), await claimed(store)

    finished = [await store.attempts.succeed(silent, "a.mp4")]
    finished += [await store.attempts.succeed(heard, "b.mp4", has_audio=True)]

    assert [generation.has_audio for generation in finished] == [False, True]
    assert [(await read(store, each.id)).has_audio for each in finished] == [False, True]


async def test_a_failure_keeps_its_sentence(store: Store) -> None:
    failed = await store.attempts.fail(await claimed(store), "No luck.")

    assert (failed.status, failed.error_message) == (Status.FAILED, "No luck.")


async def test_an_attempt_that_lost_its_generation_can_change_nothing(store: Store) -> None:
    held = await claimed(store)
    await released(store, held)
    newer = await store.attempts.claim("you", 60)
    assert newer is not None

    for change in (
        store.attempts.succeed(held, "late.mp4"),
        store.attempts.fail(held, "late"),
        released(store, held),
        store.attempts.renew(held, 60, 0.5, None),
        worker_died(store, held, 0.5, "late"),
    ):
        with pytest.raises(StaleAttemptError):
            await change

    assert await read(store, held.id) == newer
    # the late attempts left no trace in the log of attempts either
    assert [entry["outcome"] for entry in await store.attempt_log()] == [Outcome.RELEASED, None]


@pytest.mark.parametrize("end", sorted(TERMINAL))
async def test_nothing_happens_after_the_end(store: Store, end: Status) -> None:
    held = await claimed(store)
    if end is Status.SUCCEEDED:
        await store.attempts.succeed(held, "a.mp4")
    elif end is Status.FAILED:
        await store.attempts.fail(held, "No luck.")
    else:
        await store.submissions.cancel(held.id, "")
    over = await read(store, held.id)

    for change in (
        store.attempts.succeed(held, "b.mp4"),
        store.attempts.fail(held, "no"),
        released(store, held),
    ):
        with pytest.raises(StaleAttemptError):
            await change
    assert await store.submissions.cancel(held.id, "") is None
    assert await store.attempts.claim("me", 60) is None
    assert await read(store, held.id) == over


async def test_a_renewal_extends_the_lease_and_keeps_the_progress(store: Store, clock: Clock) -> None:
    held = await claimed(store)
    clock.now += 30

    await store.attempts.renew(held, 60, 0.4, {"dtype": "bfloat16"}, host="gpu-2")

    now = await read(store, held.id)
    assert now.lease_until == clock.now + 60
    assert (now.progress, now.fingerprint, now.host) == (0.4, {"dtype": "bfloat16"}, "gpu-2")


async def test_only_an_expired_lease_is_abandoned(store: Store, clock: Clock) -> None:
    held = await claimed(store)
    assert await store.attempts.abandoned() == []
    with pytest.raises(StaleAttemptError):
        await server_died(store, held)

    clock.now += 61
    assert await store.attempts.abandoned() == [held]
    requeued = await server_died(store, held)

    assert (requeued.status, requeued.server_deaths, requeued.worker_deaths) == (Status.QUEUED, 1, 0)
    assert (requeued.owner, requeued.started_at, requeued.progress) == (None, None, 0.0)


async def test_expiring_all_leases_leaves_none_held(store: Store) -> None:
    held = await claimed(store)

    await store.attempts.expire_leases()

    assert [generation.id for generation in await store.attempts.abandoned()] == [held.id]


CALLS = ("claim", "succeed", "fail", "release", "renew", "die", "cancel", "expire")


@given(calls=st.lists(st.sampled_from(CALLS), max_size=12))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_calls_obeys_the_law(calls: list[str], url: str) -> None:
    async def play() -> None:
        store = emptied(url)
        (generation,) = await queued(store)
        held = before = await read(store, generation.id)
        for call in calls:
            try:
                held = await one_call(store, call, held)
            except StaleAttemptError:
                assert (await read(store, held.id)) == before
            after = await read(store, held.id)
            assert after.status is before.status or after.status in MAY_BECOME[before.status]
            assert after.attempt - before.attempt in (0, 1)
            before = after
        log = await store.attempt_log()
        assert [entry["attempt"] for entry in log] == list(range(1, before.attempt + 1))
        assert sum(entry["outcome"] == Outcome.SUCCEEDED for entry in log) == (before.status is Status.SUCCEEDED)
        assert sum(entry["outcome"] is None for entry in log) == (before.status is Status.PROCESSING)
        store.close()

    asyncio.run(play())


async def one_call(store: Store, call: str, held: Generation) -> Generation:
    match call:
        case "claim":
            return await store.attempts.claim("me", 60) or held
        case "succeed":
            await store.attempts.succeed(held, "a.mp4")
        case "fail":
            await store.attempts.fail(held, "no")
        case "release":
            await released(store, held)
        case "renew":
            await store.attempts.renew(held, 60, 0.5, None)
        case "die":
            await worker_died(store, held, 0.5, "killed")
        case "cancel":
            await store.submissions.cancel(held.id, "")
        case "expire":
            await store.attempts.expire_leases()
            for abandoned in await store.attempts.abandoned():
                await server_died(store, abandoned)
    return held
