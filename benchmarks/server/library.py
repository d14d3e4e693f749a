"""The history as a library: pages by cursor, each filter and a search, in a history of many generations.

python -m benchmarks.server.library [--rows 10000]

On SQLite and on PostgreSQL it records that many generations of a tenant, and a tenth as many of another one among them,
with 2,000 prompts of 400 characters, five models, ten sizes and every status, makes every tenth a favourite, and gives
one tag to half of them and one to every hundredth. Then it reads pages of 50 as the server does, with the rows' content
and tags: from the beginning of the history and from its middle, by each filter; and counts what there is to filter by.
Figures are milliseconds in this process, without HTTP.
"""

import asyncio
import random
import shlex
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import percentile, show
from benchmarks.server.search import Prompts, generation
from pipelines.core.request import VideoParams
from server.core.generation import Generation, Status
from server.storage.db.records import Filters, Marking, QueueLimits
from server.storage.db.statements.library import MAX_FAVOURITES
from tests.support.postgres import PostgresServer
from tests.support.records import StandaloneStore

TENANT, OTHER = "me", "other"
PROMPTS = 2_000
ROUNDS = 30
PAGE = 50
NEWEST = 2**31 - 1
OVER = (Status.SUCCEEDED, Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
SIZES = [(width, height) for width in (832, 1280, 640, 480, 320) for height in (480, 720)]
FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "model, every fifth": {"model": "model 3"},
    "model, none": {"model": "none"},
    "statuses, two": {"statuses": frozenset({Status.FAILED, Status.CANCELLED})},
    "date, the oldest tenth": {"until": 0.1},
    "date, an empty range": {"since": 2.0},
    "size, every tenth": {"size": "640x720"},
    "favourites, every tenth": {"favourite": True},
    "all but favourites": {"favourite": False},
    "tag, every second": {"tag": "often"},
    "tag, every hundredth": {"tag": "seldom"},
    "search, a common word": {"search": "lake"},
    "search, a rare word": {"search": "zebra"},
    "all at once": {"model": "model 3", "size": "640x720", "favourite": False, "tag": "often", "search": "lake"},
}


def made(number: int, rows: int, prompt: str, tenant: str = TENANT) -> Generation:
    """One generation of the history; its time is the part of the history before it."""
    width, height = SIZES[number % len(SIZES)]
    return replace(
        generation(prompt),
        tenant=tenant,
        model=f"model {number // 10 % 5}",
        status=OVER[number // 50 % len(OVER)],
        enqueued_at=number / rows,
        params=VideoParams(prompt, " ", height, width, 81, 50, 5.0, number),
    )


async def fill(store: StandaloneStore, rows: int) -> None:
    """Record the history, and mark it."""
    dice, words = random.Random(1), Prompts()
    prompts = [words.one(400) for _ in range(PROMPTS)]
    for start in range(0, rows, 200):
        new = [made(number, rows, dice.choice(prompts)) for number in range(start, min(start + 200, rows))]
        await store.submissions.insert(new, QueueLimits(rows))
        others = [made(number, rows, dice.choice(prompts), OTHER) for number in range(start, start + len(new) // 10)]
        await store.submissions.insert(others, QueueLimits(rows))
    ids = [placed.generation.id for placed in (await store.page(Filters(tenant=TENANT), 1, rows)).rows]
    for share, marking in (
        (10, Marking(favourite=True)),
        (2, Marking(add=["often"])),
        (100, Marking(add=["seldom"])),
    ):
        some = dice.sample(ids, min(rows // share, MAX_FAVOURITES if marking.favourite else rows))
        for start in range(0, len(some), 500):
            await store.library.mark(TENANT, some[start : start + 500], marking)


async def timed(call: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """The median and the 95th percentile of milliseconds that a call takes."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - began) * 1000)
    return {"ms": round(statistics.median(taken), 2), "p95_ms": round(percentile(taken, 95), 2)}


async def measure(url: str, rows: int) -> dict[str, Any]:
    """All figures of one database."""
    store = StandaloneStore(url)
    began = time.perf_counter()
    await fill(store, rows)
    figures: dict[str, Any] = {"fill_seconds": round(time.perf_counter() - began, 1)}
    if store.is_shared:
        # as its autovacuum does within a minute
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
            tx.exec_driver_sql("VACUUM ANALYZE")

    async def content(listing: Any) -> None:
        async for _ in store.history.rows(listing):
            pass

    for name, chosen in FILTERS.items():
        filters = Filters(tenant=TENANT, **chosen)

        async def page(filters: Filters = filters) -> None:
            await content(await store.history.page(filters, 1, PAGE))

        async def onward(filters: Filters = filters, before: int = rows // 2) -> None:
            await content(await store.history.before(filters, before, PAGE))

        figures[name] = {"page": await timed(page), "cursor": await timed(onward)}
    figures["tags"] = await timed(lambda: store.library.tags(TENANT))
    figures["facets"] = await timed(lambda: store.library.facets(TENANT))
    ids = [placed.generation.id for placed in (await store.page(Filters(tenant=TENANT), 1, 500)).rows]
    figures["mark 500"] = await timed(lambda: store.library.mark(TENANT, ids, Marking(add=["new"])))
    store.close()
    return figures


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["sqlite"] = asyncio.run(measure(f"sqlite:///{Path(folder) / 'paddock.db'}", options.rows))
    server = PostgresServer()
    server.start()
    try:
        found["postgresql"] = asyncio.run(measure(server.url(server.create()), options.rows))
    finally:
        server.stop()
    called = shlex.join(["python", "-m", "benchmarks.server.library", *sys.argv[1:]])
    table = [
        (f"{kind}: {name}", *(f"{figures[name][way]['ms']} ms" for way in ("page", "cursor")))
        for kind, figures in found.items()
        for name in FILTERS
    ]
    table += [
        (f"{kind}: {name}", f"{figures[name]['ms']} ms", "")
        for kind, figures in found.items()
        for name in ("tags", "facets", "mark 500")
    ]
    show("library", table, {"command": called, **vars(options), **found}, ("what", "first page", "by cursor"))


if __name__ == "__main__":
    main()
