"""Searches of the history with the index of words, and as they were before it: by reading every prompt.

python -m benchmarks.server.search [--rows 100000] [--long-rows 10000]

On SQLite and on PostgreSQL it records prompts of 400 characters, every tenth of them Chinese, and of 9,000 characters,
with the schema from before the index; upgrades that; searches in both ways, which take turns; and records single
generations with and without their words, in turns. A search is a count and a page of 50, as in the history.
"""

import random
import shlex
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from alembic import command
from sqlalchemy import ColumnElement, Engine, and_, func, insert, select

from benchmarks.report import show
from pipelines.core.request import VideoParams
from server.core.generation import Generation, Origin, Status
from server.storage.db import search
from server.storage.db.connection import open_database, unopened
from server.storage.db.migrations import upgrade
from server.storage.db.records import Filters
from server.storage.db.schema import generations
from server.storage.db.statements.rows import to_row
from tests.support.postgres import PostgresServer

SEED = 20261129
BEFORE = "0012"
TENANT = "me"
ROUNDS = 3
SINGLE = 200
SEARCHES = {
    "one letter": "s",
    "a common word": "lake",
    "three common words": "lake red morning",
    "a rare word": "zebra",
    "two characters": "湖边",
    "no such word": "qqqqq",
}
_COMMON = ["lake", "red", "morning", "slow", "camera", "light", "of", "the", "a", "in"]


class Prompts:
    """Random prompts in which few words are frequent and most are rare, as in natural texts."""

    def __init__(self) -> None:
        self._dice = random.Random(SEED)
        letters = "abcdefghijklmnoprstuvwyz"
        rare = ["".join(self._dice.choices(letters, k=self._dice.randint(3, 10))) for _ in range(20_000)]
        self._words = [*_COMMON, *rare]
        self._weights = [1 / (20 + place) for place in range(len(self._words))]

    def one(self, length: int, *, is_chinese: bool = False) -> str:
        """A prompt of so many characters."""
        if is_chinese:
            return "".join(chr(0x4E00 + int(self._dice.triangular(0, 6_000, 0))) for _ in range(length - 2)) + "湖边"
        found = " ".join(self._dice.choices(self._words, self._weights, k=length // 4))[: length - 8]
        return found + " zebra" if self._dice.random() < 0.0005 else found

    def all(self, rows: int, long_rows: int) -> Iterator[str]:
        """The prompts of the records."""
        for number in range(rows):
            yield self.one(400, is_chinese=number % 10 == 0)
        for _ in range(long_rows):
            yield self.one(9_000)


def generation(prompt: str) -> Generation:
    """A finished generation of a prompt."""
    return Generation(
        id=str(uuid4()),
        model="wan",
        status=Status.SUCCEEDED,
        origin=Origin.QUEUE,
        enqueued_at=1.0,
        completed_at=2.0,
        tenant=TENANT,
        parameters={"prompt": prompt, "seed": 7},
        params=VideoParams(prompt, " ", 480, 832, 81, 50, 5.0, 7),
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def fill(url: str, prompts: Iterator[str]) -> float:
    """Record prompts with the schema from before the index; returns the seconds."""
    engine = unopened(url)
    with engine.begin() as tx:
        command.upgrade(upgrade.alembic_config(tx), BEFORE)
    seconds = 0.0
    while rows := [to_row(generation(prompt)) for prompt in islice(prompts, 1_000)]:
        began = time.perf_counter()
        with engine.begin() as tx:
            tx.execute(insert(generations), rows)
        seconds += time.perf_counter() - began
    engine.dispose()
    return seconds


def as_before(text: str) -> ColumnElement[bool]:
    """The condition as it was before the index."""
    prompt = generations.c.parameters["prompt"].as_string()
    found = (prompt.icontains(word, autoescape=True) for word in text.split())
    return and_(generations.c.tenant == TENANT, *found)


def look(engine: Engine, condition: ColumnElement[bool]) -> int:
    """How many rows meet a condition, after their first page has been read."""
    seq = generations.c.seq
    with engine.connect() as tx:
        total = tx.scalar(select(func.count()).select_from(generations).where(condition)) or 0
        wanted = select(seq).where(condition).order_by(seq.desc()).limit(50)
        tx.execute(select(generations).where(seq.in_(wanted)).order_by(seq.desc())).all()
    return total


def searches(engine: Engine) -> dict[str, dict[str, Any]]:
    """Of each search the median milliseconds in both ways, which take turns, and how many rows each finds."""
    figures = {}
    for name, text in SEARCHES.items():
        ways = {"before": as_before(text), "index": Filters(tenant=TENANT, search=text).clause()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, condition in ways.items():
                seconds[way].append(timed(lambda condition=condition: look(engine, condition)))  # type: ignore[misc]
        figures[name] = {
            **{f"{way}_ms": round(statistics.median(taken) * 1000, 2) for way, taken in seconds.items()},
            **{f"{way}_rows": look(engine, condition) for way, condition in ways.items()},
        }
        print(name, figures[name], file=sys.stderr)
    return figures


def single(engine: Engine, length: int) -> dict[str, float]:
    """Median milliseconds to record one generation in a transaction, without and with its words, in turns."""
    prompts = Prompts()
    seconds: dict[bool, list[float]] = {False: [], True: []}

    def record(new: Generation, *, has_words: bool) -> None:
        found_by = search.entries([new]) if has_words else []
        with engine.begin() as tx:
            tx.execute(insert(generations), [to_row(new)])
            search.add(tx, found_by)

    for number in range(2 * SINGLE):
        new, has_words = generation(prompts.one(length)), number % 2 == 1
        seconds[has_words].append(timed(lambda new=new, has_words=has_words: record(new, has_words=has_words)))  # type: ignore[misc]
    return {
        f"{name}_ms": round(statistics.median(seconds[has_words]) * 1000, 2)
        for name, has_words in (("before", False), ("index", True))
    }


def size(engine: Engine) -> float:
    """MiB of the database."""
    with engine.connect() as tx:
        if engine.dialect.name == "postgresql":
            return (tx.scalar(select(func.pg_database_size(func.current_database()))) or 0) / 2**20
        pages, bytes_ = (tx.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size"))
        return float(pages * bytes_ / 2**20)


def measure(url: str, rows: int, long_rows: int) -> dict[str, Any]:
    """All figures of one database."""
    filled = fill(url, Prompts().all(rows, long_rows))
    engine = unopened(url)
    before = size(engine)
    engine.dispose()
    upgraded = timed(lambda: open_database(url).dispose())
    engine = open_database(url)
    if engine.dialect.name == "postgresql":
        # as its autovacuum does within a minute
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
            tx.exec_driver_sql("VACUUM ANALYZE")
    figures = {
        "fill_seconds": round(filled, 1),
        "upgrade_seconds": round(upgraded, 1),
        "mib_before": round(before),
        "mib_index": round(size(engine)),
        "searches": searches(engine),
        "insert_400": single(engine, 400),
        "insert_9000": single(engine, 9_000),
    }
    engine.dispose()
    return figures


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--long-rows", type=int, default=10_000)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["sqlite"] = measure(f"sqlite:///{Path(folder) / 'paddock.db'}", options.rows, options.long_rows)
    server = PostgresServer()
    server.start()
    try:
        found["postgresql"] = measure(server.url(server.create()), options.rows, options.long_rows)
    finally:
        server.stop()
    called = shlex.join(["python", "-m", "benchmarks.server.search", *sys.argv[1:]])
    table = [
        (f"{kind}: {name}", f"{each['before_ms']} ms", f"{each['index_ms']} ms")
        for kind, figures in found.items()
        for name, each in [
            *figures["searches"].items(),
            ("insert, 400 characters", figures["insert_400"]),
            ("insert, 9,000 characters", figures["insert_9000"]),
        ]
    ]
    table += [
        (f"{kind}: upgrade, size", f"{figures['mib_before']} MiB", f"{figures['mib_index']} MiB")
        for kind, figures in found.items()
    ]
    show("search", table, {"command": called, **vars(options), **found}, ("what", "before", "with the index"))


if __name__ == "__main__":
    main()
