"""The rows of a long queue: many tenants, several models, and a history behind them."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from uuid import UUID

from sqlalchemy import URL, Engine, insert

from pipelines.core.request import VideoParams
from server.core.catalogue import load_catalogue
from server.core.generation import Generation, Origin, Status
from server.core.settings.settings import Settings
from server.storage.db.connection import open_database
from server.storage.db.schema import generations, turns
from server.storage.db.statements.rows import to_row

SEED = 20261130
BATCH = 2_000
SHARES = (0.7, 0.2, 0.1)
"""Of the requests for the first model, the second, and the third."""

_WORDS = ("slow", "camera", "follows", "the", "red", "boat", "over", "lake", "in", "morning", "light", "mist", "trees")


@dataclass(frozen=True, slots=True)
class Workload:
    """So many `queued` generations of so many `tenants` and `models` (at most 3), and so many ended before."""

    queued: int
    tenants: int = 1_000
    models: int = 3
    history: int = 20_000


class Requests:
    """Generations as clients would request them, the same ones every time."""

    def __init__(self, workload: Workload, seed: int = SEED) -> None:
        self._dice = random.Random(seed)
        self.tenants = [f"tenant-{number:05}" for number in range(workload.tenants)]
        self._models = list(load_catalogue(Settings()))[: workload.models]
        self._shares = SHARES[: workload.models]

    def one(self) -> Generation:
        """A generation that waits, not recorded yet."""
        prompt = " ".join(self._dice.choices(_WORDS, k=40))
        return Generation(
            id=str(UUID(int=self._dice.getrandbits(128), version=4)),
            model=self._dice.choices(self._models, self._shares)[0],
            tenant=self._dice.choice(self.tenants),
            status=Status.QUEUED,
            origin=Origin.QUEUE,
            enqueued_at=time.time(),
            parameters={"prompt": prompt, "width": 832, "height": 480, "num_frames": 81, "seed": 7},
            params=VideoParams(prompt, " ", 480, 832, 81, 50, 5.0, 7),
        )


def fill(url: str | URL, workload: Workload) -> None:
    """Make a database with the rows of a workload, in batches: clients would take hours."""
    requests = Requests(workload)
    ended = (_ended(requests.one()) for _ in range(workload.history))
    waiting = (requests.one() for _ in range(workload.queued))
    engine = open_database(url)
    for rows in (ended, waiting):
        _record(engine, rows)
    if workload.history:
        with engine.begin() as tx:
            # those who have a history have had turns
            numbered = enumerate(requests.tenants, start=1)
            tx.execute(insert(turns), [{"tenant": each, "number": number, "passed": 0} for number, each in numbered])
    if engine.dialect.name == "postgresql":
        # as its autovacuum does within a minute
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
            tx.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _ended(generation: Generation) -> Generation:
    now = generation.enqueued_at
    return replace(generation, status=Status.SUCCEEDED, attempt=1, started_at=now, completed_at=now, progress=1.0)


def _record(engine: Engine, rows: Iterator[Generation]) -> None:
    while batch := list(islice(rows, BATCH)):
        with engine.begin() as tx:
            # without the words of prompts: nothing here searches
            tx.execute(insert(generations), [to_row(each) for each in batch])
