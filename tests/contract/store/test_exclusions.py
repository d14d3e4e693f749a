"""Claims of devices that cannot make everything: what they leave others take, and it keeps its place."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.core.fair_queue import Exclusions, FairQueue, Waiting, predicted_order
from server.core.generation import Generation
from server.storage.db.statements.queue import exclusions as excluded_heads
from tests.contract.store.examples import emptied, need, of_tenants, released
from tests.support.records import StandaloneStore as Store

WEIGHTS = st.sampled_from(("a", "a1", "a2", "b", "b1"))


def without(*weights: str) -> Exclusions:
    """Exclude the models that are given by a letter, and the weights that are given by more."""
    models = frozenset(each for each in weights if len(each) == 1)
    return Exclusions(models, frozenset(found for each in weights if len(each) > 1 and (found := need(each))))


async def taken_by(store: Store, holding: str | None, exclusions: Exclusions) -> list[Generation]:
    held, taken = need(holding), []
    while (generation := await store.attempts.claim("me", 60, held, exclusions)) is not None:
        held = generation.weights
        taken.append(generation)
    return taken


def names(generations: Sequence[Generation], order: Sequence[Generation]) -> list[int]:
    ids = [generation.id for generation in generations]
    return [ids.index(generation.id) for generation in order]


async def test_what_is_left_to_others_is_first_for_them(store: Store) -> None:
    queued = await of_tenants(store, "xxyx", "abab")

    assert names(queued, await taken_by(store, "b", without("a"))) == [1, 3]
    assert await store.attempts.next(None, without("a", "b")) is None
    following = await store.attempts.next(need("b"))
    assert following is not None
    assert following.id == queued[2].id
    assert names(queued, await taken_by(store, None, without())) == [2, 0]


async def test_a_variant_is_left_and_its_model_is_not(store: Store) -> None:
    queued = await of_tenants(store, "xxxx", ["a1", "a1", "a2", "a"])

    assert names(queued, await taken_by(store, "a1", without("a1"))) == [2, 3]
    assert names(queued, await taken_by(store, None, without("b1"))) == [0, 1]


async def test_a_device_looks_past_so_many_variants_that_it_cannot_make(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excluded_heads, "MOST_LOOKED_AT", 3)
    queued = await of_tenants(store, "xxxxyx", ["a1", "a1", "a1", "a", "a", "b"])

    assert names(queued, await taken_by(store, None, without("a1"))) == [4, 5]
    assert names(queued, await taken_by(store, None, without("a2"))) == [0, 1, 2, 3]


async def test_a_generation_at_the_end_of_the_queue_is_left_as_well(store: Store) -> None:
    queued = await of_tenants(store, "xx", "ab")
    held = await store.attempts.claim("me", 60, need("a"))
    assert held is not None
    await released(store, replace(held, server_deaths=3))

    assert names(queued, await taken_by(store, None, without("a"))) == [1]
    assert names(queued, await taken_by(store, None, without())) == [0]


@given(
    entries=st.lists(st.tuples(st.sampled_from("xyz"), WEIGHTS), min_size=1, max_size=14),
    excluded=st.lists(WEIGHTS, max_size=3),
    holding=st.none() | WEIGHTS,
    bound=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_device_takes_what_it_would_take_if_the_rest_were_not_there(
    entries: list[tuple[str, str]], excluded: list[str], holding: str | None, bound: int, url: str
) -> None:
    async def play() -> None:
        store = emptied(url, max_overtakes=bound)
        await of_tenants(store, *zip(*entries, strict=True))
        exclusions = without(*excluded)
        waiting = [
            Waiting(seq, tenant, *weights)
            for seq, (tenant, each) in enumerate(entries)
            if (weights := need(each)) is not None and not exclusions.cover(weights)
        ]
        expected = [*predicted_order(FairQueue(waiting, [], {}, bound), [need(holding)])]

        taken = await taken_by(store, holding, exclusions)
        rest = await taken_by(store, holding, without())
        store.close()

        first = min(generation.seq for generation in (*taken, *rest))
        assert [generation.seq - first for generation in taken] == expected
        assert len(taken) + len(rest) == len(entries)

    asyncio.run(play())
