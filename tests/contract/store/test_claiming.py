"""Claims of many devices at once: how often the database is asked, and what each device is answered."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from server.core.errors import RecordsUnavailableError
from server.core.fair_queue import NOTHING, Exclusions
from server.core.generation import Status
from server.storage.db.records import QueueLimits
from server.storage.db.statements.queue import claiming, fair_queue
from tests.contract.store.examples import need, new, of_tenants, queued, released
from tests.support.records import StandaloneStore as Store


@contextmanager
def counted(store: Store, name: str) -> Iterator[list[Any]]:
    """What happens on a store's connections, one entry each time."""
    seen: list[Any] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments)

    event.listen(store.engine, name, note)
    try:
        yield seen
    finally:
        event.remove(store.engine, name, note)


async def test_devices_that_ask_together_are_answered_together_where_nothing_waits(store: Store) -> None:
    with counted(store, "begin") as transactions:
        found = await asyncio.gather(*(store.attempts.claim(f"me/{n}", 60) for n in range(200)))

    assert found == [None] * 200
    assert len(transactions) == 1


async def test_one_transaction_claims_a_few_and_the_others_come_next(store: Store) -> None:
    await queued(store, 2 * claiming.MOST_AT_ONCE)

    with counted(store, "begin") as transactions:
        found = await asyncio.gather(*(store.attempts.claim(f"me/{n}", 60) for n in range(2 * claiming.MOST_AT_ONCE)))

    assert [held and held.owner for held in found] == [f"me/{n}" for n in range(2 * claiming.MOST_AT_ONCE)]
    assert len(transactions) == 2


async def test_devices_that_hold_different_weights_each_go_on_with_theirs(store: Store) -> None:
    await of_tenants(store, "uvwxyz", "ababab")

    holding = ["b", "a", None, "b"]
    found = await asyncio.gather(*(store.attempts.claim("me", 60, need(each)) for each in holding))

    assert [held and held.model for held in found] == ["b", "a", "a", "b"]


async def test_devices_that_cannot_make_everything_ask_with_others(store: Store) -> None:
    queued = await of_tenants(store, "xyxyxy", "abaaab")
    no_a, no_b = Exclusions(frozenset("a")), Exclusions(frozenset("b"))

    asks = [no_a, no_a, no_a, NOTHING, no_b, NOTHING, no_a, no_b, NOTHING]
    found = await asyncio.gather(*(store.attempts.claim("me", 60, None, each) for each in asks))

    assert [held and held.model for held in found] == ["b", "b", None, "a", "a", "a", None, None, "a"]
    assert {held.id for held in found if held is not None} == {generation.id for generation in queued}


async def test_a_device_that_has_left_gets_nothing(store: Store) -> None:
    first, second = await queued(store, 2)

    leaving, staying = (asyncio.create_task(store.attempts.claim(f"me/{n}", 60)) for n in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    held = await staying

    assert held is not None
    assert (held.id, held.owner) == (first.id, "me/1")
    following = await store.attempts.next(None)
    assert following is not None
    assert following.id == second.id
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_an_outage_is_told_to_each_device_and_the_next_claim_works(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (waiting,) = await queued(store)

    @contextmanager
    def failing() -> Iterator[Any]:
        raise RecordsUnavailableError("no records", "later")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(store._session, "write", failing)
        found = await asyncio.gather(*(store.attempts.claim(f"me/{n}", 60) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [RecordsUnavailableError] * 3

    held = await store.attempts.claim("me", 60)
    assert held is not None
    assert held.id == waiting.id


async def test_a_claim_sends_as_many_statements_whether_few_tenants_are_skipped_or_many(store: Store) -> None:
    counts = []
    for skipped in (2, fair_queue.FEW - 2):
        tenants = [f"{skipped}/{n:02}" for n in range(skipped + 1)]
        await of_tenants(store, tenants, ["b"] * skipped + ["a"])
        with counted(store, "before_cursor_execute") as statements:
            held = await store.attempts.claim("me", 60, need("a"))
        assert held is not None
        assert held.tenant == tenants[-1]
        counts.append(len(statements))
        for _ in range(skipped):
            await store.attempts.claim("me", 60)

    assert counts[0] == counts[1]


async def test_a_devices_own_model_is_found_behind_more_tenants_than_are_read_at_first(store: Store) -> None:
    many = [f"{n:03}" for n in range(2 * fair_queue.FEW)]
    await of_tenants(store, many, ["b"] * (len(many) - 1) + ["a"])

    held = [await store.attempts.claim("me", 60, need("a")) for _ in range(2)]

    assert [one and (one.tenant, one.model) for one in held] == [(many[-1], "a"), (many[0], "b")]


@pytest.mark.parametrize("kind", ["none", "awaiting", "running", "waiting", "deferred"])
async def test_whether_there_is_work(store: Store, kind: str) -> None:
    await store.submissions.insert([new(status=Status.FAILED)], QueueLimits(10))
    if kind == "awaiting":
        await queued(store, awaited_input="https://example.org/a.png")
    elif kind != "none":
        await queued(store)
    if kind in ("running", "deferred"):
        held = await store.attempts.claim("me", 60)
        assert held is not None
        if kind == "deferred":
            await released(store, replace(held, server_deaths=3))

    assert await store.attempts.has_work() is (kind in ("waiting", "deferred"))
