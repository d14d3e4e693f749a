"""What every store promises: the status law, held in the database whoever calls."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.request import VideoParams
from server.core.generation import MAY_BECOME, TERMINAL, Generation, Origin, Outcome, Status
from server.core.retry import Blame, Interruption, decide
from server.storage.db.connection import open_database
from server.storage.db.records import (
    Filters,
    IdempotencyKeyReusedError,
    IdempotentRequest,
    QueueLimitError,
    QueueLimits,
    StaleAttemptError,
)
from server.storage.db.schema import metadata
from server.storage.db.statements.history import LIST_LIMIT
from server.storage.db.statements.submissions import IDEMPOTENCY_SECONDS
from tests.support.records import StandaloneStore as Store

PARAMS = VideoParams("an ox", " ", 64, 64, 5, 2, 5.0, 7)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def new(**changes: object) -> Generation:
    """A generation not recorded yet."""
    generation = Generation(
        id=str(uuid4()),
        model="wan",
        status=Status.QUEUED,
        origin=Origin.QUEUE,
        enqueued_at=1_000.0,
        parameters={"prompt": "an ox", "seed": 7},
        params=PARAMS,
    )
    return replace(generation, **changes)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'paddock.db'}"


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    """An empty store of each kind."""
    store = Store(url, clock, max_overtakes=2, server="me")
    yield store
    store.close()


@pytest.fixture
def rival(url: str, store: Store) -> Iterator[Store]:
    """Another store on the same database."""
    rival = Store(url, max_overtakes=2, server="rival")
    yield rival
    rival.close()


def emptied(url: str, **options: Any) -> Store:
    """A store without a record in it, on a database that another example may have used."""
    engine = open_database(url)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
    engine.dispose()
    return Store(url, **options)


async def queued(store: Store, count: int = 1, **changes: object) -> list[Generation]:
    """Some queued generations, in their order."""
    generations = [new(**changes) for _ in range(count)]
    await store.submissions.insert(generations, QueueLimits(10_000))
    return generations


async def claimed(store: Store) -> Generation:
    """A generation that is claimed for a minute."""
    await queued(store)
    held = await store.attempts.claim("me", 60)
    assert held is not None
    return held


def released(store: Store, held: Generation, saved: float = 0.0) -> Coroutine[Any, Any, Generation]:
    """Give a claim back."""
    return store.attempts.retry(held, decide(held, Interruption(Blame.NONE, saved, saved)))


def worker_died(
    store: Store, held: Generation, reached: float, why: str, saved: float = 0.0
) -> Coroutine[Any, Any, Generation]:
    """End an attempt whose worker died."""
    return store.attempts.retry(held, decide(held, Interruption(Blame.WORKER, reached, saved, why)))


def server_died(store: Store, abandoned: Generation) -> Coroutine[Any, Any, Generation]:
    """End an attempt whose server died."""
    saved = abandoned.progress
    return store.attempts.retry(abandoned, decide(abandoned, Interruption(Blame.SERVER, saved, saved)))


async def read(store: Store, generation_id: str) -> Generation:
    placed = await store.history.get(generation_id, "")
    assert placed is not None
    return placed.generation


# in and out


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
    assert await store.history.newest(Filters(tenant="you")) == []
    assert (await store.history.page(Filters(tenant="you"), 1, 10)).total == 0
    assert await store.history.completed_since(0, "you") == []


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


async def test_one_key_may_not_fill_the_queue(store: Store) -> None:
    limits = QueueLimits(10, per_tenant=2)
    await store.submissions.insert([new(tenant="me"), new(tenant="me")], limits)

    with pytest.raises(QueueLimitError) as caught:
        await store.submissions.insert([new(tenant="me")], limits)
    await store.submissions.insert([new(tenant="you")], limits)

    assert (caught.value.limit, caught.value.is_per_tenant) == (2, True)
    assert await store.history.queued() == 3


@pytest.fixture
def twin(url: str, store: Store, clock: Clock) -> Iterator[Store]:
    """Another server's store on the same database, by the same clock."""
    twin = Store(url, clock, max_overtakes=2, server="twin")
    yield twin
    twin.close()


async def test_a_request_that_comes_twice_is_recorded_once(store: Store, twin: Store, clock: Clock) -> None:
    once, first = IdempotentRequest("a-key", "digest"), [new(tenant="me"), new(tenant="me")]
    assert await store.submissions.insert(first, QueueLimits(10), once) is first

    # of two servers as well, over the limit as well, and as it is by now
    await store.submissions.cancel(first[0].id, "me")
    again = await twin.submissions.insert([new(tenant="me")], QueueLimits(0), once)

    assert [(each.id, each.status) for each in again] == [
        (first[0].id, Status.CANCELLED),
        (first[1].id, Status.QUEUED),
    ]
    with pytest.raises(IdempotencyKeyReusedError):
        await store.submissions.insert([new(tenant="me")], QueueLimits(10), IdempotentRequest("a-key", "another"))
    # another's key of that name is another, and after a day this one is new
    await store.submissions.insert([new(tenant="you")], QueueLimits(10), once)
    clock.now += IDEMPOTENCY_SECONDS + 1
    later = [new(tenant="me")]
    assert await store.submissions.insert(later, QueueLimits(10), IdempotentRequest("a-key", "another")) is later


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
    await store.expiry.remove(first[0].id, "me")

    second = [new(tenant="me")]

    assert await store.submissions.insert(second, QueueLimits(10), once) is second
    assert await store.submissions.insert([new(tenant="me")], QueueLimits(10), once) == await of(store, second)


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


async def test_any_text_is_kept_and_looked_for(store: Store) -> None:
    odd = "a\0b\N{OX}\\u0000"
    generation = new(target_namespace=odd, parameters={"prompt": odd}, params=replace(PARAMS, prompt=odd))
    await store.submissions.insert([generation], QueueLimits(1))

    (placed,) = await store.history.newest(Filters(namespace=odd))

    assert placed.generation.parameters == {"prompt": odd}
    assert placed.generation.params == generation.params
    # PostgreSQL has no room for one character
    assert placed.generation.target_namespace in (odd, odd.replace("\0", "\N{REPLACEMENT CHARACTER}"))
    assert await store.history.get("\0", "") is None
    assert await store.submissions.cancel("\0", "\0") is None


async def test_filters_all_hold_together(store: Store) -> None:
    await queued(store, target_namespace="ox", target_repo="a", target_directory="x", model="wan")
    await queued(store, target_namespace="ox", target_repo="b", target_directory="x", model="wan")
    await queued(store, target_namespace="ox", target_repo="b", target_directory="y", model="other")

    async def count(**filters: object) -> int:
        return len(await store.history.newest(Filters(**filters)))  # type: ignore[arg-type]

    assert await count() == 3
    assert await count(namespace="ox") == 3
    assert await count(repo="b") == 2
    assert await count(repo="b", folder="x") == 1
    assert await count(model="other") == 1
    assert await count(media_type="image") == 0
    assert await count(statuses=frozenset({Status.SUCCEEDED})) == 0
    assert await count(statuses=frozenset()) == 0


async def test_pages_are_newest_first_and_count_all(store: Store) -> None:
    generations = await queued(store, 5)
    await queued(store, 2, tenant="another", status=Status.CANCELLED)

    page = await store.history.page(Filters(), 2, 2)

    assert page.total == 5
    assert (await store.history.page(Filters(tenant="another"), 1, 1)).total == 2
    assert (await store.history.page(Filters(model="no such"), 1, 1)).total == 0
    assert [placed.generation.id for placed in page.rows] == [generations[2].id, generations[1].id]
    assert [placed.queue_position for placed in page.rows] == [3, 2]
    for size in (1, 2, 3, 5, 6):
        pages = [await store.history.page(Filters(), number, size) for number in range(1, 8)]
        assert [len(page.rows) for page in pages] == [min(size, max(5 - size * before, 0)) for before in range(7)]
        assert [placed.generation.id for page in pages for placed in page.rows] == [g.id for g in generations[::-1]]


async def test_a_list_of_several_statuses_is_one_newest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    over, running, *waiting = (generation.id for generation in await queued(store, 4))
    held = await store.attempts.claim("me", 60)
    assert held is not None
    await store.attempts.succeed(held, "over.mp4")
    await store.attempts.claim("me", 60)

    async def ids(*statuses: Status) -> list[str]:
        return [placed.generation.id for placed in await store.history.newest(Filters(statuses=frozenset(statuses)))]

    assert await ids(Status.QUEUED, Status.PROCESSING) == [*waiting[::-1], running]
    assert await ids(Status.SUCCEEDED, Status.QUEUED) == [*waiting[::-1], over]
    monkeypatch.setattr("server.storage.db.statements.history.LIST_LIMIT", 2)
    assert await ids(Status.QUEUED, Status.PROCESSING) == waiting[::-1]


async def test_a_list_is_bounded(store: Store) -> None:
    await queued(store, LIST_LIMIT + 1)

    assert len(await store.history.newest(Filters())) == LIST_LIMIT


# the status law


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

    told = await store.attempts.next("another")
    assert told is not None
    assert (told.id, told.status, told.attempt) == (other.id, Status.QUEUED, 0)
    assert await store.attempt_log() == []
    taken = await store.attempts.claim("me", 60, "another")
    assert taken is not None
    assert taken.id == told.id
    following = await store.attempts.next("another")
    assert following is not None
    assert following.id == first.id


async def test_racing_claims_never_share_a_generation(store: Store) -> None:
    await queued(store, 20)

    claims = await asyncio.gather(*(store.attempts.claim(f"owner {n}", 60) for n in range(30)))

    ids = [held.id for held in claims if held]
    assert len(ids) == len(set(ids)) == 20


async def test_what_is_claimed_while_a_list_is_read_keeps_its_place_in_it(
    store: Store, rival: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queued(store, 2)
    select = store.history._select

    def select_then_claim(*args: Any) -> list[Generation]:
        found = select(*args)
        asyncio.run(rival.attempts.claim("rival", 60))
        return found

    monkeypatch.setattr(store.history, "_select", select_then_claim)

    rows = await store.history.newest(Filters())

    assert [(row.generation.status, row.queue_position) for row in rows] == [(Status.QUEUED, 2), (Status.QUEUED, 1)]


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
    assert await store.history.completed_since(clock.now - 1, "") == [finished]
    assert await store.history.completed_since(clock.now + 1, "") == []


async def test_a_failure_keeps_its_sentence(store: Store) -> None:
    failed = await store.attempts.fail(await claimed(store), "No luck.")

    assert (failed.status, failed.error_message) == (Status.FAILED, "No luck.")


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


# what is kept


async def ended(store: Store, clock: Clock, count: int) -> list[Generation]:
    """Generations that succeeded a minute apart, each with a video; none other is queued."""
    finished = []
    for number in range(count):
        finished.append(await store.attempts.succeed(await claimed(store), f"{number}.mp4"))
        clock.now += 60
    return finished


async def test_what_is_over_can_be_removed_by_its_owner_and_nobody_else(store: Store, clock: Clock) -> None:
    (over,) = await ended(store, clock, 1)
    running = await claimed(store)
    (waiting,) = await queued(store)

    assert await store.expiry.remove(over.id, "somebody else") is None
    assert await store.expiry.remove("unknown", "") is None
    assert await store.expiry.remove(running.id, "") is None
    assert await store.expiry.remove(waiting.id, "") is None
    assert await store.expiry.remove(over.id, "") == over
    assert await store.history.get(over.id, "") is None
    assert [entry["generation_id"] for entry in await store.attempt_log()] == [running.id]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("OX lake", ["An ox by a Lake"]),
        ("lake ox", ["An ox by a Lake"]),
        ("o", ["An ox by a Lake", "100% ox_cart"]),
        ("0% x_c", ["100% ox_cart"]),
        ("%", ["100% ox_cart"]),
        ("湖", ["湖边的牛"]),
        (None, ["An ox by a Lake", "100% ox_cart", "湖边的牛", None, 7]),
        ("\\", []),
    ],
)
async def test_history_is_searched_by_words_of_the_prompt(store: Store, search: str | None, found: list[Any]) -> None:
    prompts = ["An ox by a Lake", "100% ox_cart", "湖边的牛", None, 7]
    for prompt in prompts:
        parameters = {"style": "lake"} if prompt is None else {"prompt": prompt, "style": "lake"}
        await store.submissions.insert([new(parameters=parameters)], QueueLimits(10))

    page = await store.history.page(Filters(search=search), 1, 10)

    assert [placed.generation.parameters.get("prompt") for placed in page.rows] == found[::-1]
    assert page.total == len(found)


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

    rows = await store.history.newest(Filters())
    assert [placed.generation.id for placed in rows] == [waiting.id, running.id, third.id]
    assert [entry["generation_id"] for entry in await store.attempt_log()] == [third.id, running.id]
    with pytest.raises(StaleAttemptError):
        await store.attempts.fail(first, "late")


async def test_a_withdrawn_video_leaves_its_row_and_a_reason(store: Store, clock: Clock) -> None:
    await store.attempts.fail(await claimed(store), "No luck.")
    first, second, third = await ended(store, clock, 3)
    await claimed(store)

    assert await store.expiry.oldest_videos(clock.now, 2) == [first, second]
    assert await store.expiry.oldest_videos(second.completed_at or 0, 2) == [first]
    await store.expiry.withdraw([first, second], "Too much.")

    now = await read(store, first.id)
    assert now == replace(first, artifact=None, error_message="Too much.")
    assert await store.expiry.oldest_videos(clock.now, 2) == [third]
    assert await store.expiry.superseded({"0.mp4": first.id, "2.mp4": third.id}) == ["0.mp4"]


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
    # what the late attempts tried left no trace in the log of attempts either
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

    await store.attempts.renew(held, 60, 0.4, {"dtype": "bfloat16"})

    now = await read(store, held.id)
    assert now.lease_until == clock.now + 60
    assert (now.progress, now.fingerprint) == (0.4, {"dtype": "bfloat16"})


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


async def test_progress_that_is_saved_outlives_the_attempt(store: Store) -> None:
    held = await claimed(store)
    await store.attempts.renew(held, 60, 0.5, None)

    assert (await released(store, held, 0.4)).progress == 0.4
    again = await store.attempts.claim("me", 60)
    assert again is not None
    assert again.progress == 0.4
    assert (await worker_died(store, again, 0.6, "killed", 0.55)).progress == 0.55


async def test_what_is_over_or_unknown_is_told_from_what_goes_on(store: Store) -> None:
    running, waiting, over = await queued(store, 3)
    await store.submissions.cancel(over.id, "")
    await store.attempts.claim("me", 60)

    assert await store.expiry.ended([running.id, waiting.id, over.id, "unknown"]) == sorted([over.id, "unknown"])
    assert await store.expiry.ended([]) == []


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
    rows = {placed.generation.id: placed for placed in await store.history.newest(Filters())}
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


# the order of several models


async def queue_of(store: Store, models: Sequence[str]) -> list[Generation]:
    """One queued generation of each of these models, in their order."""
    generations = [new(model=model) for model in models]
    await store.submissions.insert(generations, QueueLimits(10_000))
    return generations


async def take(store: Store, holding: Sequence[str | None], most: int = 100) -> list[Generation]:
    """Claim until nothing is queued, by devices that take turns, each holding its last one's model."""
    held, taken = list(holding), []
    for device in cycle(range(len(held))):
        generation = await store.attempts.claim("me", 60, held[device]) if len(taken) < most else None
        if generation is None:
            break
        held[device] = generation.model
        taken.append(generation)
    return taken


def loads(models: Sequence[str | None]) -> int:
    """How often a device that takes these models in turn must load another."""
    return sum(before != after for before, after in pairwise(models))


async def test_a_device_goes_on_with_its_model_within_the_bound(store: Store) -> None:
    await queue_of(store, "abababab")

    order = "".join(generation.model for generation in await take(store, ["a"]))

    assert order == "aaabbbba"
    assert loads(order) < loads("abababab")


async def test_a_steady_stream_of_one_model_starves_no_other(store: Store, clock: Clock) -> None:
    (waiting,) = await queue_of(store, "b")
    taken = []
    while waiting.id not in taken:
        await queue_of(store, "aa")
        # whatever the clock does
        clock.now -= 10_000
        taken += [generation.id for generation in await take(store, ["a"], most=1)]

    assert len(taken) == 2 + 1


async def test_what_never_started_or_was_given_back_overtook_nobody(store: Store) -> None:
    oldest, cancelled, given_back, other = await queue_of(store, "baac")
    await store.submissions.insert([new(model="a", status=Status.FAILED) for _ in range(3)], QueueLimits(10))
    await store.submissions.cancel(cancelled.id, "")
    for loaded, expected in (("a", given_back), ("c", other)):
        (held,) = await take(store, [loaded], most=1)
        assert held.id == expected.id
        await released(store, held)

    assert [generation.id for generation in await take(store, ["a"])] == [given_back.id, oldest.id, other.id]


async def test_a_model_that_is_not_queued_or_not_loaded_changes_nothing(store: Store) -> None:
    generations = await queue_of(store, "abc")

    assert [(await take(store, [holding], most=1))[0].id for holding in ("d", None, "a")] == [
        generation.id for generation in generations
    ]


async def test_places_follow_the_model_that_is_loaded(store: Store) -> None:
    generations = await queue_of(store, "abab")

    async def places(*holding: str | None) -> list[int | None]:
        placed = [await store.history.get(generation.id, "", holding) for generation in generations]
        return [one.queue_position for one in placed if one]

    assert await places() == await places(None) == await places("a") == [1, 3, 2, 4]
    assert await places("b") == [3, 1, 4, 2]
    assert await places("a", "b") == [1, 2, 3, 4]
    page = await store.history.page(Filters(model="b"), 1, 10, ["b"])
    assert [placed.queue_position for placed in page.rows] == [2, 1]


MODELS = st.sampled_from("abc")


@given(
    models=st.lists(MODELS, min_size=1, max_size=14),
    holding=st.lists(st.none() | MODELS, min_size=1, max_size=2),
    bound=st.integers(0, 4),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_queue_is_taken_in_the_order_foretold(
    models: list[str], holding: list[str | None], bound: int, url: str
) -> None:
    async def play() -> None:
        store = emptied(url, max_overtakes=bound)
        await queue_of(store, models)
        foretold = {
            placed.queue_position: placed.generation.seq for placed in await store.history.newest(Filters(), holding)
        }
        taken = await take(store, holding)
        store.close()

        order = [generation.seq for generation in taken]
        assert [foretold[place] for place in range(1, len(models) + 1)] == order
        for place, seq in enumerate(order):
            assert sum(earlier > seq for earlier in order[:place]) <= bound
        for model in set(models):
            same = [generation.seq for generation in taken if generation.model == model]
            assert same == sorted(same)
        if len(holding) == 1:
            assert loads([*holding, *(generation.model for generation in taken)]) <= loads([*holding, *models])

    asyncio.run(play())


STEPS = st.lists(
    st.tuples(st.just("arrive"), MODELS)
    | st.tuples(st.just("claim"), st.none() | MODELS)
    | st.tuples(st.sampled_from(("succeed", "release", "cancel", "withdraw")), st.none()),
    max_size=30,
)


@given(steps=STEPS, bound=st.integers(0, 3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_and_goes_the_first_is_next_and_none_waits_beyond_the_bound(
    steps: list[tuple[str, str | None]], bound: int, url: str
) -> None:
    async def play() -> None:
        store = emptied(url, max_overtakes=bound)
        running: list[Generation] = []
        for step, model in steps:
            rows = await store.history.newest(Filters(), [model])
            waiting = [placed.generation for placed in rows if placed.generation.status is Status.QUEUED]
            assert sorted(filter(None, (placed.queue_position for placed in rows))) == [*range(1, len(waiting) + 1)]
            if step == "claim" and (held := await store.attempts.claim("me", 60, model)):
                assert [placed.generation.id for placed in rows if placed.queue_position == 1] == [held.id]
                assert held.seq == min(generation.seq for generation in waiting if generation.model == held.model)
                running.append(held)
            elif step != "claim":
                await one_step(store, step, model, running, waiting)
            ahead = [g for g in await everything(store) if g.attempt and g.status is not Status.QUEUED]
            for generation in await everything(store):
                if generation.status is Status.QUEUED and not generation.attempt:
                    assert sum(other.seq > generation.seq for other in ahead) <= bound
        store.close()

    asyncio.run(play())


async def everything_of(store: Store, tenants: str) -> list[Generation]:
    found = [placed for tenant in tenants for placed in await store.history.newest(Filters(tenant=tenant))]
    return [placed.generation for placed in found]


async def everything(store: Store) -> list[Generation]:
    return [placed.generation for placed in await store.history.newest(Filters())]


async def one_step(
    store: Store, step: str, model: str | None, running: list[Generation], waiting: list[Generation]
) -> None:
    match step:
        case "arrive":
            await queue_of(store, model or "")
        case "succeed" if running:
            await store.attempts.succeed(running.pop(), "a.mp4")
        case "release" if running:
            await released(store, running.pop())
        case "cancel" if running:
            await store.submissions.cancel(running.pop().id, "")
        case "withdraw" if waiting:
            await store.submissions.cancel(waiting[0].id, "")


# the turns of several tenants


async def of_tenants(store: Store, tenants: Sequence[str], models: Sequence[str] | None = None) -> list[Generation]:
    """A queued generation for each of these tenants, in their order, of a model each."""
    pairs = zip(tenants, models or "a" * len(tenants), strict=True)
    generations = [new(tenant=tenant, model=model) for tenant, model in pairs]
    for generation in generations:
        await store.submissions.insert([generation], QueueLimits(10_000))
    return generations


def whose(generations: Sequence[Generation]) -> str:
    """Whose they are."""
    return "".join(generation.tenant for generation in generations)


async def positions(store: Store, tenants: str, holding: Sequence[str | None]) -> dict[int, int]:
    """The sequence numbers of all that wait, by the places that their owners are told."""
    told = [placed for tenant in tenants for placed in await store.history.newest(Filters(tenant=tenant), holding)]
    waiting = [(placed.queue_position, placed.generation.seq) for placed in told if placed.queue_position is not None]
    assert sorted(place for place, _ in waiting) == [*range(1, len(waiting) + 1)]
    return dict(waiting)


async def test_keys_take_turns_and_each_is_first_in_first_out(store: Store) -> None:
    generations = await of_tenants(store, "xxxxyxxzy")

    taken = await take(store, ["a"])

    assert whose(taken) == "xyzxyxxxx"
    for tenant in "xyz":
        own = [generation.id for generation in generations if generation.tenant == tenant]
        assert [generation.id for generation in taken if generation.tenant == tenant] == own


async def test_a_key_with_a_long_queue_does_not_keep_another_waiting(store: Store) -> None:
    many = [new(tenant="x") for _ in range(1000)]
    await store.submissions.insert(many, QueueLimits(10_000))
    await take(store, ["a"], most=3)

    (late,) = await of_tenants(store, "y")

    told = [
        await store.history.get(generation.id, generation.tenant, ["a"]) for generation in (late, many[3], many[-1])
    ]
    assert [placed and placed.queue_position for placed in told] == [1, 2, 998]
    assert whose(await take(store, ["a"], most=4)) == "yxxx"


async def test_a_turn_that_was_had_is_not_forgotten_with_what_was_made(store: Store) -> None:
    await of_tenants(store, "xxxyy")
    for _ in range(2):
        (held,) = await take(store, ["a"], most=1)
        await store.attempts.succeed(held, "a.mp4")
        assert await store.expiry.remove(held.id, held.tenant) is not None

    assert whose(await take(store, ["a"])) == "xyx"


async def test_what_is_given_back_has_its_turn_again(store: Store) -> None:
    await of_tenants(store, "xyxyz")
    taken = await take(store, ["a"], most=2)
    await released(store, taken[0])

    again = await take(store, ["a"])

    assert again[0].id == taken[0].id
    assert whose(again) == "xzyx"


async def test_claims_at_the_same_instant_are_different_keys_turns(store: Store, rival: Store) -> None:
    for _ in range(8):
        await take(store, [None])
        await of_tenants(store, "xyxy", "aabb")
        # each of a model of its own, so that the two could take of one key what is next there
        found = await asyncio.gather(store.attempts.claim("me", 60, "a"), rival.attempts.claim("rival", 60, "b"))
        assert {generation.tenant for generation in found if generation} == {"x", "y"}


async def test_a_device_goes_on_with_its_model_past_anothers_turn_within_the_bound(store: Store) -> None:
    await of_tenants(store, "xyxyxyxyxy", "abababab" + "ab")

    taken = await take(store, ["a"])

    assert "".join(generation.model for generation in taken) == "aaabbbaabb"


@given(
    entries=st.lists(st.tuples(st.sampled_from("xyz"), MODELS), min_size=1, max_size=14),
    before=st.lists(st.none() | MODELS, max_size=5),
    holding=st.lists(st.none() | MODELS, min_size=1, max_size=2),
    bound=st.integers(0, 3),
    late=st.lists(st.tuples(st.sampled_from("xyz"), MODELS), max_size=4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_keys_and_models_are_taken_in_the_order_foretold_and_none_waits_beyond_its_turn(
    entries: list[tuple[str, str]],
    before: list[str | None],
    holding: list[str | None],
    bound: int,
    late: list[tuple[str, str]],
    url: str,
) -> None:
    async def play() -> None:
        store = emptied(url, max_overtakes=bound)
        await of_tenants(store, *zip(*entries, strict=True))
        early = [held for model in before if (held := await store.attempts.claim("me", 60, model))]
        for given_back in early[::3]:
            await released(store, given_back)
        there = {one.seq for one in await everything_of(store, "xyz") if one.status is Status.QUEUED}
        moved = {}
        for deadly in early[1::3]:
            await released(store, replace(deadly, server_deaths=3))
            moved[deadly.seq] = set(there)
        if late:
            await of_tenants(store, *zip(*late, strict=True))
        told = await positions(store, "xyz", holding)
        taken = await take(store, holding)
        store.close()

        assert [told[place] for place in sorted(told)] == [generation.seq for generation in taken]
        order = [generation.seq for generation in taken]
        for seq, before_it in moved.items():
            assert before_it <= set(order[: order.index(seq)])
        in_turn = [generation for generation in taken if generation.seq not in moved]
        for tenant in set(whose(in_turn)):
            last = max(
                place for place, generation in enumerate(taken) if generation in in_turn and generation.tenant == tenant
            )
            others = whose(taken[:last]).split(tenant)
            assert max(map(len, others)) <= len("xyz") - 1 + bound
            seqs = [generation.seq for generation in in_turn if generation.tenant == tenant]
            for place, seq in enumerate(seqs):
                assert sum(earlier > seq for earlier in seqs[:place]) <= bound

    asyncio.run(play())


# any order of calls


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
