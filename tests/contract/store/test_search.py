"""Generations are found by the beginnings of the words of their prompts, and by nothing else."""

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from server.core.generation import Status
from server.storage.db.records import Filters, QueueLimits
from server.storage.db.schema import prompt_words
from server.storage.db.words import MAX_CHARACTERS, MAX_WORDS, terms, words
from tests.contract.store.examples import emptied, new, queued
from tests.support.records import StandaloneStore as Store

PROMPTS: list[Any] = [
    "An ox by a Lake, 100% ox_cart",
    "Éa's café; a STRASSE in İstanbul (at dusk)",
    "湖边的牛 and 牛",
    "ที่รัก हिन्दी ｶﾞﾗｽ",
    'say "NEAR(ox*" AND co-op: prompt_words -> 🦆',
    "\ud800a\0b ox",
    None,
    7,
    {"prompt": "ox"},
]


async def recorded(store: Store, *prompts: Any, **changes: object) -> None:
    for prompt in prompts:
        parameters = {"style": "lake"} if prompt is None else {"prompt": prompt, "style": "lake"}
        await store.submissions.insert([new(parameters=parameters, **changes)], QueueLimits(10_000))


async def found(store: Store, search: str | None, tenant: str = "") -> list[Any]:
    page = await store.page(Filters(search=search, tenant=tenant), 1, 1000)
    assert page.total == len(page.rows)
    return [placed.generation.parameters.get("prompt") for placed in page.rows[::-1]]


SEARCHES: list[tuple[str | None, Sequence[int]]] = [
    # beginnings, in any order and case
    ("ox lake", [0]),
    ("LAKE oX", [0]),
    ("lak", [0]),
    ("ake", []),
    ("a", [0, 1, 2, 4, 5]),
    ("an o", [0, 4]),
    ("ox ox oxc", []),
    ("x_c", []),
    ("ox_cart 100%", [0]),
    # other cases, accents and widths
    ("éa", [1]),
    ("ÉA CAFE", [1]),
    ("café", [1]),
    ("straße", [1]),
    ("STRASSE", [1]),
    ("istanbul", [1]),
    ("İSTANBUL", [1]),
    ("ＣＡＦＥ", [1]),
    # without spaces
    ("湖", [2]),
    ("牛", [2]),
    ("边的", [2]),
    ("湖边的牛", [2]),
    ("的牛 湖边", [2]),
    ("湖的", []),
    ("牛湖", []),
    ("รัก", [3]),
    ("हि", [3]),
    ("ह", [3]),
    ("ガラス", [3]),
    ("ラ", [3]),
    # what a query language might take for its own
    ('"', []),
    ("%", []),
    ("\\", []),
    ("*", []),
    ("' OR 1=1 --", []),
    ("'ox':*", [0, 4, 5]),
    ('ox" OR "lake', []),
    ("ox | lake", [0]),
    ("ox & !lake", [0]),
    ("near(", [4]),
    ("NEAR(ox lake)", []),
    ("NOT ox", []),
    ("ox NOT lake", []),
    ("AND", [2, 4]),
    ("co-op", [4]),
    ("-ox", [0, 4, 5]),
    ("words:ox", [4]),
    ("{words}:ox", [4]),
    ("^ox", [0, 4, 5]),
    ("ox + lake", [0]),
    ("🦆", [4]),
    ("🦢", []),
    # other oddities
    ("b\0", [0, 5]),
    ("\ud800ox", [0, 4, 5]),
    ("\ud800", []),
    ("…!?", []),
    ("7", []),
    ("lake" * 50, []),
    (" \n", range(9)),
    ("", range(9)),
    (None, range(9)),
]
"""Searches, and which of the prompts they find."""


async def test_words_of_the_prompt_are_searched_by_their_beginnings(store: Store) -> None:
    await recorded(store, *PROMPTS)

    for search, numbers in SEARCHES:
        assert await found(store, search) == [PROMPTS[number] for number in numbers], search


async def test_the_words_of_a_prompt_are_bounded(store: Store) -> None:
    long = "a" * MAX_CHARACTERS
    many = " ".join(f"w{number} W{number}" for number in range(1, MAX_WORDS))
    await recorded(store, f"{many} last beyond", long + "b", "湖" * 10_000, "".join(map(chr, range(0x4E00, 0x9E00))))

    assert len(await found(store, f"w{MAX_WORDS - 1} last")) == 1
    assert await found(store, "beyond") == []
    assert await found(store, long + "c") == [long + "b"]
    assert len(await found(store, "湖" * 200)) == 1
    assert len(await found(store, "".join(map(chr, range(0x4E00, 0x4E00 + 200))))) == 1
    assert await found(store, "".join(map(chr, range(0x4E00, 0x4E00 + 199))) + "湖") == []
    # these are several characters each
    assert await found(store, "".join(map(chr, range(0x3300, 0x3358)))) == []


async def test_another_tenants_prompts_are_not_found(store: Store) -> None:
    # these have one mark in the index
    alike = ["tenant-341", "tenant-369"]
    tenants = ["", "a", "b", "tenant", *alike]
    for tenant in tenants:
        await recorded(store, f"an ox of {tenant}", tenant=tenant)

    for tenant in tenants:
        assert await found(store, "ox", tenant) == [f"an ox of {tenant}"]
    assert await found(store, "ox", "c") == []


async def test_what_is_removed_is_not_found_and_leaves_no_words(store: Store) -> None:
    for at in (1.0, 2.0, 3.0):
        await recorded(store, f"ox {at:.0f}", "no such", status=Status.FAILED, completed_at=at)
    (waiting,) = await queued(store)
    newest = (await store.page(Filters(search="ox 3"), 1, 1)).rows[0].generation

    assert await store.expiry.remove([waiting.id], "") == ([], {waiting.id: Status.QUEUED})
    assert await found(store, "ox") == ["ox 1", "ox 2", "ox 3", "an ox"]
    assert (await store.expiry.remove([newest.id], ""))[0]
    assert await found(store, "ox") == ["ox 1", "ox 2", "an ox"]
    assert len(await store.expiry.forget(2.0, 10)) == 2
    assert await found(store, "ox") == ["ox 2", "an ox"]
    with store._session.read() as tx:
        assert tx.scalar(select(func.count()).select_from(prompt_words)) == 4


async def test_changes_of_a_generation_leave_it_to_be_found(store: Store) -> None:
    (generation,) = await queued(store)
    held = await store.attempts.claim("me", 60)
    assert held is not None
    assert await found(store, "ox") == ["an ox"]
    await store.attempts.succeed(held, "ox.mp4")
    assert await found(store, "ox") == ["an ox"]
    await store.expiry.withdraw([generation], "too old")
    assert await found(store, "ox") == ["an ox"]


async def test_a_search_and_filters_hold_together_on_every_page(store: Store) -> None:
    for number in range(12):
        state = {"status": Status.FAILED if number % 2 else Status.QUEUED, "model": "wan" if number % 3 else "other"}
        await recorded(store, f"{'ox' if number % 4 else 'lake'} {number}", target_namespace="me", **state)

    async def pages(size: int, **filters: Any) -> tuple[list[str], int]:
        pages = [await store.page(Filters(**filters), number, size) for number in range(1, 14)]
        (total,) = {page.total for page in pages}
        return [each.generation.parameters["prompt"].split()[1] for page in pages for each in page.rows], total

    failed = frozenset({Status.FAILED})
    for size in (1, 2, 3, 5, 100):
        assert await pages(size, search="OX") == (["11", "10", "9", "7", "6", "5", "3", "2", "1"], 9)
        assert await pages(size, search="ox", statuses=failed) == (["11", "9", "7", "5", "3", "1"], 6)
        assert await pages(size, search="ox", statuses=frozenset(Status), model="other") == (["9", "6", "3"], 3)
        assert await pages(size, search="ox 1", namespace="me") == (["11", "10", "1"], 3)
        assert await pages(size, search="ox", namespace="you") == ([], 0)
        assert await pages(size, search="!", statuses=failed) == ([], 0)
    (placed,) = (await store.page(Filters(search="ox 10"), 1, 10)).rows
    assert placed.queue_position == 6


PIECES = [*"aáAb 湖边牛ที่é,'\"*-&|\\", "ß", "SS", "İ", "i", "🦆", "ox", "\0", "\ud800", "ﷺ"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=10).map("".join) | st.text(max_size=5)


@given(prompts=st.lists(TEXTS, min_size=1, max_size=8), others=st.lists(TEXTS, max_size=3), search=TEXTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_index_agrees_with_the_words(prompts: list[str], others: list[str], search: str, url: str) -> None:
    wanted = terms(search)

    def is_wanted(prompt: str) -> bool:
        if not search or search.isspace():
            return True
        return bool(wanted) and all(any(word.startswith(term) for word in words(prompt)) for term in wanted)

    async def play() -> None:
        store = emptied(url)
        await recorded(store, *others, tenant="other")
        await recorded(store, *prompts)
        assert await found(store, search) == [prompt for prompt in prompts if is_wanted(prompt)]
        store.close()

    asyncio.run(play())
