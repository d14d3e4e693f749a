"""The order of the queue: models, tenants, places."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.core.fair_queue import Weights
from server.core.generation import Generation, Status
from server.storage.db.records import (
    Filters,
    QueueLimits,
)
from server.storage.db.statements.queue import claiming, fair_queue, heads
from tests.contract.store.examples import (
    Clock,
    emptied,
    everything,
    need,
    new,
    of_tenants,
    positions,
    released,
    take,
    wanting,
    whose,
)
from tests.support.records import StandaloneStore as Store


async def queue_of(store: Store, models: Sequence[str]) -> list[Generation]:
    """One queued generation of each of these models, in their order."""
    generations = [wanting(weights) for weights in models]
    await store.submissions.insert(generations, QueueLimits(10_000))
    return generations


def loads(models: Sequence[str | None]) -> int:
    """How often a device that takes these models in turn must load another."""
    return sum(before != after for before, after in pairwise(models))


async def test_a_device_goes_on_with_its_model_within_the_bound(store: Store) -> None:
    await queue_of(store, "abababab")

    order = "".join(generation.model for generation in await take(store, ["a"]))

    assert order == "aaabbbba"
    assert loads(order) < loads("abababab")


async def test_a_device_goes_on_with_its_variant_then_its_model_within_the_bound(store: Store) -> None:
    queued = await queue_of(store, ["a1", "a2", "b", "a1", "a2"])

    ids = [generation.id for generation in queued]
    # the store's bound is two overtakes: then the oldest is due
    assert [ids.index(generation.id) for generation in await take(store, ["a2"])] == [1, 4, 0, 3, 2]


async def test_a_device_goes_on_with_its_variant_past_anothers_turn(store: Store) -> None:
    await of_tenants(store, "xyxyxyxy", ["a1", "a2"] * 4)

    # two turns of the other are skipped at most
    assert whose(await take(store, ["a1"])) == "xxxyyyxy"


async def test_a_steady_stream_of_one_model_starves_no_other(store: Store, clock: Clock) -> None:
    (waiting,) = await queue_of(store, "b")
    taken = []
    while waiting.id not in taken:
        await queue_of(store, "aa")
        # whatever the clock does
        clock.now -= 10_000
        taken += [generation.id for generation in await take(store, ["a"], most=1)]

    assert len(taken) == 2 + 1


async def test_what_never_started_or_was_given_back_overtook_none(store: Store) -> None:
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
        placed = [
            await store.history.get(generation.id, "", [need(each) for each in holding]) for generation in generations
        ]
        return [one.queue_position for one in placed if one]

    assert await places() == await places(None) == await places("a") == [1, 3, 2, 4]
    assert await places("b") == [3, 1, 4, 2]
    assert await places("a", "b") == [1, 2, 3, 4]
    page = await store.page(Filters(model="b"), 1, 10, [need("b")])
    assert [placed.queue_position for placed in page.rows] == [2, 1]


MODELS = st.sampled_from(["a", "b", "c", "a1", "a2", "b1"])


@given(
    models=st.lists(MODELS, min_size=1, max_size=14),
    holding=st.lists(st.none() | MODELS, min_size=1, max_size=2),
    bound=st.integers(0, 4),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_queue_is_taken_in_the_predicted_order(
    models: list[str], holding: list[str | None], bound: int, url: str
) -> None:
    async def play() -> None:
        store = emptied(url, max_overtakes=bound)
        await queue_of(store, models)
        predicted = {
            placed.queue_position: placed.generation.seq
            for placed in await store.newest(Filters(), [need(each) for each in holding])
        }
        taken = await take(store, holding)
        store.close()

        order = [generation.seq for generation in taken]
        assert [predicted[place] for place in range(1, len(models) + 1)] == order
        for place, seq in enumerate(order):
            assert sum(earlier > seq for earlier in order[:place]) <= bound
        for weights in {generation.weights for generation in taken}:
            same = [generation.seq for generation in taken if generation.weights == weights]
            assert same == sorted(same)
        if len(holding) == 1:
            before = [each and each[0] for each in holding]
            by_model = loads([*before, *(generation.model for generation in taken)])
            assert by_model <= loads([*before, *(weights[0] for weights in models)])

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
            rows = await store.newest(Filters(), [need(model)])
            waiting = [placed.generation for placed in rows if placed.generation.status is Status.QUEUED]
            assert sorted(filter(None, (placed.queue_position for placed in rows))) == [*range(1, len(waiting) + 1)]
            if step == "claim" and (held := await store.attempts.claim("me", 60, need(model))):
                assert [placed.generation.id for placed in rows if placed.queue_position == 1] == [held.id]
                assert held.seq == min(generation.seq for generation in waiting if generation.weights == held.weights)
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
    found = [placed for tenant in tenants for placed in await store.newest(Filters(tenant=tenant))]
    return [placed.generation for placed in found]


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


async def test_tenants_take_turns_and_each_is_first_in_first_out(store: Store) -> None:
    generations = await of_tenants(store, "xxxxyxxzy")

    taken = await take(store, ["a"])

    assert whose(taken) == "xyzxyxxxx"
    for tenant in "xyz":
        own = [generation.id for generation in generations if generation.tenant == tenant]
        assert [generation.id for generation in taken if generation.tenant == tenant] == own


async def test_a_tenant_with_a_long_queue_does_not_keep_another_waiting(store: Store) -> None:
    many = [new(tenant="x") for _ in range(1000)]
    await store.submissions.insert(many, QueueLimits(10_000))
    await take(store, ["a"], most=3)

    (late,) = await of_tenants(store, "y")

    told = [
        await store.history.get(generation.id, generation.tenant, [need("a")])
        for generation in (late, many[3], many[-1])
    ]
    assert [placed and placed.queue_position for placed in told] == [1, 2, 998]
    assert whose(await take(store, ["a"], most=4)) == "yxxx"


async def test_a_turn_that_was_had_is_not_forgotten_with_what_was_made(store: Store) -> None:
    await of_tenants(store, "xxxyy")
    for _ in range(2):
        (held,) = await take(store, ["a"], most=1)
        await store.attempts.succeed(held, "a.mp4")
        assert (await store.expiry.remove([held.id], held.tenant))[0]

    assert whose(await take(store, ["a"])) == "xyx"


async def test_what_is_given_back_has_its_turn_again(store: Store) -> None:
    await of_tenants(store, "xyxyz")
    taken = await take(store, ["a"], most=2)
    await released(store, taken[0])

    again = await take(store, ["a"])

    assert again[0].id == taken[0].id
    assert whose(again) == "xzyx"


async def test_claims_at_the_same_instant_are_different_tenants_turns(store: Store, rival: Store) -> None:
    for _ in range(8):
        await take(store, [None])
        await of_tenants(store, "xyxy", "aabb")
        # each holds another model, so that both could take the next of one tenant
        found = await asyncio.gather(
            store.attempts.claim("me", 60, need("a")), rival.attempts.claim("rival", 60, need("b"))
        )
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
    few=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tenants_and_models_are_taken_in_the_predicted_order_and_none_waits_beyond_its_turn(
    entries: list[tuple[str, str]],
    before: list[str | None],
    holding: list[str | None],
    bound: int,
    late: list[tuple[str, str]],
    few: int,
    url: str,
) -> None:
    async def play() -> None:
        store = emptied(url, max_overtakes=bound)
        await of_tenants(store, *zip(*entries, strict=True))
        early = [held for model in before if (held := await store.attempts.claim("me", 60, need(model)))]
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

    # as if there were too many tenants to read all for each claim
    with patch.object(fair_queue, "FEW", few):
        asyncio.run(play())


Ask = tuple[str, float, Weights | None]


def in_transactions(asks: Sequence[Ask], most: int) -> list[Ask]:
    """Asks in the order in which they are answered, so many in a transaction, those for the same weights together."""
    in_order: list[Ask] = []
    while left := [ask for ask in asks if ask not in in_order]:
        held = list(dict.fromkeys(holding for _, _, holding in left))
        in_order += sorted(left, key=lambda ask: held.index(ask[2]))[:most]
    return in_order


@given(
    entries=st.lists(st.tuples(st.sampled_from("uvwxyz"), MODELS), min_size=1, max_size=14),
    before=st.lists(st.none() | MODELS, max_size=4),
    holding=st.lists(st.none() | MODELS, min_size=1, max_size=6),
    bound=st.integers(0, 3),
    few=st.integers(1, 7),
    most=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_claims_in_one_transaction_are_those_of_devices_that_ask_one_after_another(
    entries: list[tuple[str, str]],
    before: list[str | None],
    holding: list[str | None],
    bound: int,
    few: int,
    most: int,
    url: str,
) -> None:
    async def play(*, together: bool) -> list[int | None]:
        store = emptied(url, max_overtakes=bound)
        first = (await of_tenants(store, *zip(*entries, strict=True)))[0]
        for model in before:
            await store.attempts.claim("me", 60, need(model))
        asks = [(f"me/{number}", 60, need(model)) for number, model in enumerate(holding)]
        if together:
            found = await asyncio.gather(*(store.attempts.claim(*ask) for ask in asks))
        else:
            taken = {ask: await store.attempts.claim(*ask) for ask in in_transactions(asks, most)}
            found = [taken[ask] for ask in asks]
        offset = (await everything_of(store, first.tenant))[-1].seq
        log = {(entry["generation_id"], entry["owner"]) for entry in await store.attempt_log()}
        store.close()
        assert {(one.id, one.owner) for one in found if one is not None} <= log
        return [None if one is None else one.seq - offset for one in found]

    with patch.object(fair_queue, "FEW", few), patch.object(claiming, "MOST_AT_ONCE", most):
        assert asyncio.run(play(together=True)) == asyncio.run(play(together=False))


@given(
    entries=st.lists(st.tuples(st.sampled_from("uvwxyz"), MODELS), min_size=1, max_size=14),
    before=st.lists(st.none() | MODELS, max_size=5),
    holding=st.lists(st.none() | MODELS, min_size=1, max_size=8),
    bound=st.integers(0, 3),
    few=st.integers(1, 7),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_is_taken_where_the_first_in_turn_are_found_from_the_turns(
    entries: list[tuple[str, str]],
    before: list[str | None],
    holding: list[str | None],
    bound: int,
    few: int,
    url: str,
) -> None:
    async def play(many: int) -> list[int | None]:
        store = emptied(url, max_overtakes=bound)
        await of_tenants(store, *zip(*entries, strict=True))
        offset = min([one.seq for one in await everything_of(store, "uvwxyz")])
        with patch.object(heads, "MANY", many), patch.object(heads, "CENSUS_SECONDS", 1e9):
            early = [held for model in before if (held := await store.attempts.claim("me", 60, need(model)))]
            for given_back in early[::3]:
                await released(store, given_back)
            for deadly in early[1::3]:
                await released(store, replace(deadly, server_deaths=3))
            told = [await store.attempts.next(need(model)) for model in holding[:1]]
            taken = [await store.attempts.claim("me", 60, need(model)) for model in holding]
        store.close()
        return [one and one.seq - offset for one in (*told, *taken)]

    with patch.object(fair_queue, "FEW", few):
        assert asyncio.run(play(many=1)) == asyncio.run(play(many=10**9))
