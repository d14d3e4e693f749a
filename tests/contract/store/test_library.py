"""The history as a library: cursors, filters and marks, on each kind of database."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select

from pipelines.core.request import VideoParams
from server.core.generation import Generation, Status
from server.storage.db.records import (
    Filters,
    Marking,
    MarkLimitError,
    QueueLimits,
    UnknownGenerationsError,
)
from server.storage.db.schema import tags
from server.storage.db.statements import library
from server.storage.db.statements.library import MAX_TAGS
from tests.contract.store.examples import PARAMS, Clock, emptied, new, queued
from tests.support.records import StandaloneStore as Store

NEWEST = 2**31 - 1
TENANTS = ("", "other")


async def walked(store: Store, filters: Filters, size: int) -> list[str]:
    """The ids of all generations that a cursor comes to, from the first page on."""
    listing = await store.history.page(filters, 1, size)
    found = []
    while True:
        found += [placed.generation.id for placed in listing.first]
        if listing.next is None:
            return found
        listing = await store.history.before(filters, listing.next, size)


async def ids(store: Store, **filters: Any) -> list[str]:
    """The ids of what passes filters by a cursor, after a check that pages find the same."""
    by_cursor = await walked(store, Filters(**filters), 3)
    page = await store.page(Filters(**filters), 1, 100)
    assert [placed.generation.id for placed in page.rows] == by_cursor
    assert page.total == len(by_cursor)
    return by_cursor


async def tags_of(store: Store, generation: Generation) -> list[str]:
    placed = await store.history.get(generation.id, generation.tenant)
    assert placed is not None
    return [*placed.tags]


STEPS = st.lists(
    st.tuples(st.just("add"), st.sampled_from(TENANTS), st.booleans())
    | st.tuples(st.just("remove"), st.integers(0, 50), st.none())
    | st.tuples(st.just("read"), st.integers(1, 4), st.none()),
    max_size=25,
)


@given(before=st.integers(0, 9), steps=STEPS, is_favourite=st.sampled_from((None, True, False)))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cursor_comes_to_each_generation_once_whatever_is_added_or_removed_meanwhile(
    before: int, steps: list[tuple[str, Any, Any]], is_favourite: bool | None, url: str
) -> None:
    async def play() -> None:
        store = emptied(url)
        filters = Filters(favourite=is_favourite)
        over = {"status": Status.CANCELLED, "completed_at": 1.0}
        first = [new(tenant=TENANTS[n % 3 // 2], favourite=n % 2 == 0, **over) for n in range(before)]
        if first:
            await record(store, *first)
        passed = [each.id for each in first if not each.tenant and is_favourite in (None, each.favourite)]
        known = [each.id for each in first]
        listing = await store.history.page(filters, 1, 2)
        seen, gone = [placed.generation.id for placed in listing.first], set[str]()
        for step, what, favourite in [*steps, *[("read", 3, None)] * before]:
            if step == "add":
                known.append((added := new(tenant=what, favourite=favourite, **over)).id)
                await record(store, added)
            elif step == "remove" and known:
                gone.add(id_ := known[what % len(known)])
                for tenant in TENANTS:
                    await store.expiry.remove([id_], tenant)
            elif step == "read" and listing.next is not None:
                listing = await store.history.before(filters, listing.next, what)
                assert len(listing.first) <= what
                seen += [placed.generation.id for placed in listing.first]
        assert listing.next is None
        assert len(seen) == len({*seen})
        # all that were there and stayed, in their order, and nothing newer
        assert [id_ for id_ in seen if id_ not in gone] == [id_ for id_ in reversed(passed) if id_ not in gone]
        assert {*seen} <= {*passed}
        store.close()

    asyncio.run(play())


async def record(store: Store, *generations: Generation) -> None:
    for each in generations:
        await store.submissions.insert([each], QueueLimits(10_000))


async def test_pages_tell_where_a_list_goes_on(store: Store) -> None:
    made = [each.id for each in await queued(store, 5)][::-1]

    for size, follows in ((2, True), (4, True), (5, False), (9, False)):
        listing = await store.history.page(Filters(), 1, size)
        assert (listing.next is not None) == follows
        assert await walked(store, Filters(), size) == made
    last = await store.history.page(Filters(), 3, 2)
    assert (last.next, last.total) == (None, 5)
    beyond = await store.history.page(Filters(), 4, 2)
    assert (beyond.next, beyond.total, beyond.first) == (None, 5, [])
    second = await store.history.page(Filters(), 2, 2)
    assert second.next is not None
    rest = await store.history.before(Filters(), second.next, 10)
    assert ([placed.generation.id for placed in rest.first], rest.total, rest.next) == (made[4:], None, None)
    assert [placed.queue_position for placed in rest.first] == [1]


async def test_a_list_goes_on_from_the_oldest_too(store: Store) -> None:
    made = [each.id for each in await queued(store, 5)]
    await record(store, new(tenant="other"))

    for size in (1, 2, 4, 5, 9):
        found, seq, pages = [], 0, 0
        while True:
            listing = await store.history.after(Filters(), seq, size)
            # newest first, as all listings are
            found += [placed.generation.id for placed in listing.first][::-1]
            pages += 1
            if listing.next is None:
                break
            seq = listing.next
        assert (found, pages) == (made, -(-5 // size))
    assert (await store.history.after(Filters(), NEWEST, 2)).first == []
    one = await store.history.after(Filters(statuses=frozenset({Status.FAILED})), 0, 2)
    assert (one.first, one.next, one.total) == ([], None, None)


@pytest.fixture
async def shelf(store: Store, clock: Clock) -> list[Generation]:
    """Seven generations that differ in what the history is filtered by; the last is another tenant's."""
    wide, tall = replace(PARAMS, width=832, height=480), replace(PARAMS, width=480, height=832)
    made = [
        new(params=wide, enqueued_at=1.0, parameters={"prompt": "a red ox"}),
        new(params=tall, enqueued_at=2.5, parameters={"prompt": "a blue ox"}, model="b"),
        new(params=wide, enqueued_at=3.0, status=Status.FAILED, completed_at=4.0),
        new(params=None, enqueued_at=3.0, status=Status.FAILED, completed_at=4.0),
        new(params=tall, enqueued_at=4.0, status=Status.CANCELLED, completed_at=5.0, model="b", asked_model="wan"),
        new(params=wide, enqueued_at=5.0),
        new(params=wide, enqueued_at=5.0, tenant="other"),
    ]
    await record(store, *made)
    own = [each.id for each in made]
    await store.library.mark("", own[:2], Marking(favourite=True, add=["Lake", "to show"]))
    await store.library.mark("", own[1:3], Marking(add=["lake"]))
    await store.library.mark("other", own[6:], Marking(favourite=True, add=["Lake"]))
    return made


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"size": "832x480"}, [5, 2, 0]),
        ({"size": "480x832", "model": "wan"}, [4]),
        ({"size": "480x480"}, []),
        ({"since": 2.5}, [5, 4, 3, 2, 1]),
        ({"until": 3.0}, [3, 2, 1, 0]),
        ({"since": 2.6, "until": 4.5, "statuses": frozenset({Status.FAILED})}, [3, 2]),
        ({"statuses": frozenset({Status.FAILED, Status.CANCELLED})}, [4, 3, 2]),
        ({"favourite": True}, [1, 0]),
        ({"favourite": False}, [5, 4, 3, 2]),
        ({"favourite": True, "search": "blue"}, [1]),
        ({"tag": "lake"}, [2, 1]),
        ({"tag": "Lake"}, [1, 0]),
        ({"tag": "Lake", "search": "ox", "size": "832x480", "favourite": True, "until": 1.0}, [0]),
        ({"tag": "ake"}, []),
        ({"tag": "Lake\0"}, []),
    ],
)
async def test_all_filters_hold_together(
    store: Store, shelf: list[Generation], filters: dict[str, Any], expected: list[int]
) -> None:
    numbers = {each.id: number for number, each in enumerate(shelf)}

    assert [numbers[id_] for id_ in await ids(store, **filters)] == expected


async def test_what_there_is_to_filter_by_is_counted_for_each_tenant(store: Store, shelf: list[Generation]) -> None:
    models, sizes, favourites = await store.library.facets("")

    assert [(each.value, each.count) for each in models] == [("wan", 5), ("b", 1)]
    assert [(each.value, each.count) for each in sizes] == [("832x480", 3), ("480x832", 2)]
    assert favourites == 2
    tagged = {(each.value, each.count) for each in await store.library.tags("")}
    assert tagged == {("Lake", 2), ("lake", 2), ("to show", 2)}
    assert [(each.value, each.count) for each in await store.library.tags("other")] == [("Lake", 1)]
    assert await store.library.facets("nobody") == ([], [], 0)
    assert await store.library.tags("nobody") == []


async def test_the_size_of_what_awaits_an_input_is_known_once_it_has_arrived(store: Store) -> None:
    (waiting,) = await queued(store, params=None, awaited_input="https://ox.test/a.png")
    assert await ids(store, size="64x128") == []

    params = VideoParams("an ox", width=64, height=128)
    await store.awaited_inputs.arrived("https://ox.test/a.png", [replace(waiting, params=params, awaited_input=None)])

    assert await ids(store, size="64x128") == [waiting.id]


async def test_marks_are_read_with_their_rows_and_replaced_added_and_removed(store: Store) -> None:
    one, two = await queued(store, 2)

    async def mark(*generations: Generation, **marks: Any) -> list[list[str]]:
        assert await store.library.mark("", [each.id for each in generations], Marking(**marks)) == len(generations)
        return [await tags_of(store, one), await tags_of(store, two)]

    assert await mark(one, tags=["b", "a", "Z", "ü"]) == [["Z", "a", "b", "ü"], []]
    assert await mark(one, two, add=["c", "a"]) == [["Z", "a", "b", "c", "ü"], ["a", "c"]]
    assert await mark(one, two, add=["c"], remove=["a", "c", "none"]) == [["Z", "b", "c", "ü"], ["c"]]
    assert await mark(one, tags=["b", "d"], favourite=True) == [["b", "d"], ["c"]]
    assert await mark(one, tags=[]) == [[], ["c"]]
    listed = await store.newest(Filters())
    assert [(placed.generation.favourite, placed.tags) for placed in listed] == [(False, ["c"]), (True, ())]
    # a status that changes leaves them
    held = await store.attempts.claim("me", 60)
    assert held is not None
    await store.attempts.succeed(held, "a.mp4")
    assert [each.generation.favourite for each in await store.newest(Filters())] == [False, True]
    assert await mark(one, favourite=False) == [[], ["c"]]
    assert not (await store.newest(Filters(favourite=True)))


async def test_all_are_marked_or_none(store: Store) -> None:
    (mine,) = await queued(store)
    (theirs,) = await queued(store, tenant="other")

    for ids_ in ([mine.id, theirs.id], [mine.id, "none"], ["none\0", mine.id]):
        with pytest.raises(UnknownGenerationsError) as raised:
            await store.library.mark("", ids_, Marking(favourite=True, add=["x"]))
        assert raised.value.ids == [id_ for id_ in ids_ if id_ != mine.id]
    assert [(each.generation.favourite, each.tags) for each in await store.newest(Filters())] == [(False, ())]
    assert await store.library.tags("") == await store.library.tags("other") == []


async def test_tags_and_favourites_have_limits_and_what_exceeds_them_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_TAGS_OF_TENANT", 25)
    monkeypatch.setattr(library, "MAX_FAVOURITES", 1)
    one, two = await queued(store, 2)
    many = [f"tag {number:02}" for number in range(MAX_TAGS)]
    await store.library.mark("", [one.id], Marking(tags=many, favourite=True))

    for id_, marking, sentence in (
        (one.id, Marking(add=["x"]), "A generation may have at most 20 tags: one of these would have 21."),
        (two.id, Marking(add=["a", *"bcdef"]), "There may be at most 25 different tags: these would be 26."),
        (two.id, Marking(favourite=True, add=["a"]), "There may be at most 1 favourites."),
    ):
        with pytest.raises(MarkLimitError, match=sentence):
            await store.library.mark("", [id_], marking)
    assert await tags_of(store, one) == many
    assert await tags_of(store, two) == []
    # in place of others, and of another tenant
    await store.library.mark("", [one.id], Marking(remove=many[:1], add=["x"]))
    await store.library.mark("", [two.id], Marking(tags=[*"xabcd"]))
    (other,) = await queued(store, tenant="other")
    await store.library.mark("other", [other.id], Marking(tags=[*"vwyz"], favourite=True))


async def test_of_servers_that_mark_at_once_none_exceeds_the_limit(
    store: Store, rival: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_TAGS_OF_TENANT", 3)
    made = await queued(store, 8)

    marked = await asyncio.gather(
        *(
            place.library.mark("", [each.id, made[0].id], Marking(add=[f"tag {number}"]))
            for number, each in enumerate(made)
            for place in [(store, rival)[number % 2]]
        ),
        return_exceptions=True,
    )

    refused = [each for each in marked if isinstance(each, MarkLimitError)]
    assert (len(refused), len([each for each in marked if each in (1, 2)])) == (5, 3)
    assert len(await store.library.tags("")) == 3


@pytest.mark.parametrize("way", ["removed", "forgotten"])
async def test_tags_go_with_their_generation(store: Store, clock: Clock, way: str) -> None:
    old, young = new(status=Status.FAILED, completed_at=5.0), new(status=Status.FAILED, completed_at=50.0)
    await record(store, old, young)
    await store.library.mark("", [old.id, young.id], Marking(add=["a"]))

    if way == "removed":
        await store.expiry.remove([old.id], "")
    else:
        assert [each.id for each in await store.expiry.forget(10.0, 10)] == [old.id]

    assert [(each.value, each.count) for each in await store.library.tags("")] == [("a", 1)]
    with store.engine.connect() as tx:
        assert tx.scalar(select(func.count()).select_from(tags)) == 1


async def test_favourites_are_never_forgotten_and_their_files_come_last(store: Store) -> None:
    made = [
        new(status=Status.SUCCEEDED, completed_at=float(n), artifact=f"{n}.1.mp4", favourite=n in (1, 3))
        for n in range(1, 6)
    ]
    await record(store, *made)

    assert [each.artifact for each in await store.expiry.oldest_with_files(5.0, 10)] == [
        *("2.1.mp4", "4.1.mp4", "1.1.mp4", "3.1.mp4")
    ]
    assert [each.artifact for each in await store.expiry.oldest_with_files(5.0, 3)] == ["2.1.mp4", "4.1.mp4", "1.1.mp4"]
    assert [each.artifact for each in await store.expiry.forget(10.0, 2)] == ["2.1.mp4", "4.1.mp4"]
    assert [each.artifact for each in await store.expiry.forget(10.0, 2)] == ["5.1.mp4"]
    assert [placed.generation.artifact for placed in await store.newest(Filters())] == ["3.1.mp4", "1.1.mp4"]


async def test_selections_are_of_one_tenant_by_ids_and_of_all_by_numbers(store: Store) -> None:
    (mine,) = await queued(store, parameters={"prompt": "x" * 300})
    (odd,) = await queued(store, parameters={"prompt": {"no": "text"}})
    (theirs,) = await queued(store, tenant="other")

    chosen = await store.library.chosen([mine.id, odd.id, theirs.id, "none"], "")

    assert [(each.id, each.prompt) for each in chosen] == [(odd.id, ""), (mine.id, "x" * 200)]
    numbers = [each.seq for each in chosen] + [each.seq for each in await store.library.chosen([theirs.id], "other")]
    assert {each.id for each in await store.library.numbered([*numbers, NEWEST])} == {mine.id, odd.id, theirs.id}


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"model": "wan"},
        {"size": "64x64"},
        {"since": 1.0, "until": 2.0},
        {"favourite": True},
        {"favourite": False},
        {"statuses": frozenset({Status.QUEUED})},
        {"statuses": frozenset({Status.QUEUED, Status.FAILED})},
        {"size": "64x64", "favourite": False, "model": "wan", "since": 1.0},
    ],
    ids=lambda filters: "-".join(filters) + str(len(filters.get("statuses", ()))),
)
async def test_an_index_alone_answers_filters_in_their_order(tmp_path: Path, filters: dict[str, Any]) -> None:
    # PostgreSQL chooses by the number of rows: benchmarks.server.library
    store, steps = Store(f"sqlite:///{tmp_path / 'paddock.db'}"), list[str]()

    @event.listens_for(store.engine, "before_cursor_execute")
    def note(connection: Any, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith("SELECT generations.seq"):
            plan = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps.extend(row[3] for row in plan)

    await store.history.before(Filters(**filters), NEWEST, 2)

    assert "USING COVERING INDEX" in steps[0]
    assert not any("B-TREE" in step for step in steps), steps
    store.close()
