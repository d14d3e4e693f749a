"""What clients read: filters, pages, lists."""

import asyncio
from typing import Any

import pytest

from server.core.generation import Generation, Status
from server.storage.db.records import (
    Filters,
    QueueLimits,
)
from server.storage.db.statements.history import LIST_LIMIT
from tests.contract.store.examples import (
    new,
    queued,
)
from tests.support.records import StandaloneStore as Store


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
