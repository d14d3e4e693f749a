"""What clients read: filters, pages, lists."""

import asyncio
from threading import Event
from typing import Any

import pytest

from server.core.generation import Generation, Status
from server.storage.db.records import Filters, SearchesBusyError, StatementTimeoutError
from server.storage.db.session import Pool
from server.storage.db.statements import history
from server.storage.db.statements.history import BATCH_CHARS, BATCH_ROWS, LIST_LIMIT, MAX_WAITING_SEARCHES
from tests.contract.store.examples import (
    queued,
)
from tests.support.records import StandaloneStore as Store
from tests.support.server_process import PATIENCE


async def test_filters_all_hold_together(store: Store) -> None:
    await queued(store, target_namespace="ox", target_repo="a", target_directory="x", model="wan")
    await queued(store, target_namespace="ox", target_repo="b", target_directory="x", model="wan")
    await queued(store, target_namespace="ox", target_repo="b", target_directory="y", model="other")

    async def count(**filters: object) -> int:
        return len(await store.newest(Filters(**filters)))  # type: ignore[arg-type]

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

    page = await store.page(Filters(), 2, 2)

    assert page.total == 5
    assert (await store.page(Filters(tenant="another"), 1, 1)).total == 2
    assert (await store.page(Filters(model="no such"), 1, 1)).total == 0
    assert [placed.generation.id for placed in page.rows] == [generations[2].id, generations[1].id]
    assert [placed.queue_position for placed in page.rows] == [3, 2]
    for size in (1, 2, 3, 5, 6):
        pages = [await store.page(Filters(), number, size) for number in range(1, 8)]
        assert [len(page.rows) for page in pages] == [min(size, max(5 - size * before, 0)) for before in range(7)]
        assert [placed.generation.id for page in pages for placed in page.rows] == [g.id for g in generations[::-1]]


async def test_a_long_list_is_read_in_parts_of_few_rows_and_few_characters(store: Store) -> None:
    short = await queued(store, 2 * BATCH_ROWS + 1)
    long = await queued(store, 3, parameters={"prompt": "ox" * BATCH_CHARS})
    listing = await store.history.newest(Filters())

    batches = [[placed.generation.id for placed in batch] async for batch in store.history.rows(listing)]

    assert [len(batch) for batch in batches] == [1, 1, 1, BATCH_ROWS, BATCH_ROWS, 1]
    assert [id_ for batch in batches for id_ in batch] == [each.id for each in [*short, *long][::-1]]


async def test_a_list_leaves_out_what_is_removed_while_it_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BATCH_ROWS", 2)
    made = await queued(store, 6)
    listing = await store.history.newest(Filters())
    rows = store.history.rows(listing)
    first = await anext(rows)
    for gone in (made[2], made[3]):
        await store.submissions.cancel(gone.id, "")
        await store.expiry.remove([gone.id], "")
    held = await store.attempts.claim("me", 60)
    assert held is not None

    rest = [placed async for batch in rows for placed in batch]

    assert [(placed.generation.id, placed.queue_position) for placed in [*first, *rest]] == [
        (made[5].id, 6),
        (made[4].id, 5),
        (made[1].id, 2),
        # it is processed by now
        (made[0].id, None),
    ]


async def test_a_list_of_several_statuses_is_one_newest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    over, running, *waiting = (generation.id for generation in await queued(store, 4))
    held = await store.attempts.claim("me", 60)
    assert held is not None
    await store.attempts.succeed(held, "over.mp4")
    await store.attempts.claim("me", 60)

    async def ids(*statuses: Status) -> list[str]:
        return [placed.generation.id for placed in await store.newest(Filters(statuses=frozenset(statuses)))]

    assert await ids(Status.QUEUED, Status.PROCESSING) == [*waiting[::-1], running]
    assert await ids(Status.SUCCEEDED, Status.QUEUED) == [*waiting[::-1], over]
    monkeypatch.setattr("server.storage.db.statements.history.LIST_LIMIT", 2)
    assert await ids(Status.QUEUED, Status.PROCESSING) == waiting[::-1]


async def test_a_list_is_bounded(store: Store) -> None:
    await queued(store, LIST_LIMIT + 1)

    assert len(await store.newest(Filters())) == LIST_LIMIT


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

    rows = await store.newest(Filters())

    assert [(row.generation.status, row.queue_position) for row in rows] == [(Status.QUEUED, 2), (Status.QUEUED, 1)]


async def test_a_search_that_takes_too_long_is_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "".join(chr(0x4E00 + number % 20_000) for number in range(10_000))
    await queued(store, 400, parameters={"prompt": prompt})
    words = Filters(search=prompt[:200])
    monkeypatch.setattr("server.storage.db.statements.history.SEARCH_SECONDS", 0.001)

    with pytest.raises(StatementTimeoutError):
        await store.page(words, 1, 10)
    # the connection has no limit afterwards
    assert (await store.page(Filters(), 1, 10)).total == 400
    monkeypatch.setattr("server.storage.db.statements.history.SEARCH_SECONDS", 60.0)
    assert (await store.page(words, 1, 10)).total == 400


async def test_searches_delay_nothing_else(store: Store) -> None:
    await queued(store, 2)
    over = Event()
    pool = store.history._session.threads[Pool.SEARCHES]
    occupied = [pool.submit(over.wait) for _ in range(pool._max_workers)]
    try:
        search = asyncio.create_task(store.page(Filters(search="ox"), 1, 10))
        async with asyncio.timeout(PATIENCE):
            (generation,) = await queued(store)
            assert await store.attempts.claim("me", 60) is not None
            assert await store.history.get(generation.id, "") is not None
            assert (await store.page(Filters(), 1, 10)).total == 3
        assert not search.done()
    finally:
        over.set()
    assert (await search).total == 3
    assert all(each.result() for each in occupied)


async def test_blocked_writers_delay_no_reader(store: Store) -> None:
    (generation,) = await queued(store)
    over = Event()
    pool = store.history._session.threads[Pool.WRITES]
    occupied = [pool.submit(over.wait) for _ in range(pool._max_workers)]
    try:
        async with asyncio.timeout(PATIENCE):
            assert await store.history.get(generation.id, "") is not None
            assert (await store.page(Filters(search="ox"), 1, 10)).total == 1
    finally:
        over.set()
    assert all(each.result() for each in occupied)


async def test_searches_of_a_tenant_take_turns_and_few_may_wait(store: Store) -> None:
    over = Event()
    pool = store.history._session.threads[Pool.SEARCHES]
    occupied = [pool.submit(over.wait) for _ in range(pool._max_workers)]
    mine = [
        asyncio.create_task(store.page(Filters(tenant="a", search="ox"), 1, 10))
        for _ in range(1 + MAX_WAITING_SEARCHES)
    ]
    await asyncio.sleep(0)
    with pytest.raises(SearchesBusyError):
        await store.page(Filters(tenant="a", search="ox"), 1, 10)
    others = asyncio.create_task(store.page(Filters(tenant="b", search="ox"), 1, 10))
    await asyncio.sleep(0.05)
    # one of each tenant, besides those that occupy the threads
    assert pool._work_queue.qsize() == 2
    mine.pop().cancel()

    over.set()
    assert [(await each).total for each in (*mine, others)] == [0] * (len(mine) + 1)
    assert all(each.result() for each in occupied)
    await store.page(Filters(tenant="a", search="ox"), 1, 10)
    assert not store.history._searches


async def test_parts_of_lists_of_a_tenant_take_turns_and_leave_threads_to_others(store: Store) -> None:
    over = Event()
    pool = store.history._session.threads[Pool.READS]
    occupied = [pool.submit(over.wait) for _ in range(pool._max_workers)]
    mine = [asyncio.create_task(store.history.newest(Filters(tenant="a"))) for _ in range(10)]
    pages = [asyncio.create_task(store.page(Filters(tenant="a"), 1, 10)) for _ in range(10)]
    other = asyncio.create_task(store.history.newest(Filters(tenant="b")))
    await asyncio.sleep(0.05)
    # one of each tenant, besides those that occupy the threads
    assert pool._work_queue.qsize() == 2

    over.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*mine, *pages, other)
    assert all(each.result() for each in occupied)
    assert not store.history._turns
