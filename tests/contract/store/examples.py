"""Generations for tests of the store, and steps of their lives."""

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any
from uuid import uuid4

from pipelines.core.request import RequestLora, VideoParams
from server.core.fair_queue import Weights
from server.core.generation import Generation, Origin, Status
from server.core.retry import Blame, Interruption, decide
from server.storage.db.connection import open_database
from server.storage.db.records import (
    Filters,
    QueueLimits,
)
from server.storage.db.schema import metadata
from tests.support.records import StandaloneStore as Store

PARAMS = VideoParams("an ox", " ", 64, 64, 5, 2, 5.0, 7)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def new(**changes: object) -> Generation:
    """A generation that is not recorded yet."""
    generation = Generation(
        id=str(uuid4()),
        model="wan",
        status=Status.QUEUED,
        origin=Origin.QUEUE,
        enqueued_at=1_000.0,
        parameters={"prompt": "an ox", "seed": 7},
        params=PARAMS,
    )
    return replace(generation, **changes)  # type: ignore[arg-type]


def emptied(url: str, **options: Any) -> Store:
    """A store without records, on a database that another example may have used."""
    engine = open_database(url)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
    engine.dispose()
    return Store(url, **options)


async def queued(store: Store, count: int = 1, **changes: object) -> list[Generation]:
    """Some queued generations, in their order."""
    generations = [new(**changes) for _ in range(count)]
    await store.submissions.insert(generations, QueueLimits(10_000))
    return generations


async def claimed(store: Store) -> Generation:
    """A generation that is claimed for a minute."""
    await queued(store)
    held = await store.attempts.claim("me", 60)
    assert held is not None
    return held


def released(store: Store, held: Generation, saved: float = 0.0) -> Coroutine[Any, Any, Generation]:
    """Give a claim back."""
    return store.attempts.retry(held, decide(held, Interruption(Blame.NONE, saved, saved)))


def worker_died(
    store: Store, held: Generation, reached: float, why: str, saved: float = 0.0
) -> Coroutine[Any, Any, Generation]:
    """End an attempt whose worker died."""
    return store.attempts.retry(held, decide(held, Interruption(Blame.WORKER, reached, saved, why)))


def server_died(store: Store, abandoned: Generation) -> Coroutine[Any, Any, Generation]:
    """End an attempt whose server died."""
    saved = abandoned.progress
    return store.attempts.retry(abandoned, decide(abandoned, Interruption(Blame.SERVER, saved, saved)))


async def read(store: Store, generation_id: str) -> Generation:
    placed = await store.history.get(generation_id, "")
    assert placed is not None
    return placed.generation


def need(weights: str | None) -> Weights | None:
    """The weights for which "a" names the model a, and "a1" a variant of it."""
    return None if weights is None else wanting(weights).weights


def wanting(weights: str, **changes: object) -> Generation:
    """A generation that needs these weights."""
    model, variant = weights[:1], weights[1:]
    params = replace(PARAMS, loras=(RequestLora(variant),) if variant else ())
    return new(model=model, params=params, **changes)


async def take(store: Store, holding: Sequence[str | None], most: int = 100) -> list[Generation]:
    """Claim until nothing is queued, by devices that take turns, each holding its last one's model."""
    held, taken = [need(each) for each in holding], []
    for device in cycle(range(len(held))):
        generation = await store.attempts.claim("me", 60, held[device]) if len(taken) < most else None
        if generation is None:
            break
        held[device] = generation.weights
        taken.append(generation)
    return taken


async def everything(store: Store) -> list[Generation]:
    return [placed.generation for placed in await store.newest(Filters())]


async def of_tenants(store: Store, tenants: Sequence[str], models: Sequence[str] | None = None) -> list[Generation]:
    """A queued generation for each of these tenants, in their order, of a model each."""
    pairs = zip(tenants, models or "a" * len(tenants), strict=True)
    generations = [wanting(weights, tenant=tenant) for tenant, weights in pairs]
    for generation in generations:
        await store.submissions.insert([generation], QueueLimits(10_000))
    return generations


async def positions(store: Store, tenants: str, holding: Sequence[str | None]) -> dict[int, int]:
    """The sequence numbers of all that wait, by the places that their tenants see."""
    needed = [need(each) for each in holding]
    told = [placed for tenant in tenants for placed in await store.newest(Filters(tenant=tenant), needed)]
    waiting = [(placed.queue_position, placed.generation.seq) for placed in told if placed.queue_position is not None]
    assert sorted(place for place, _ in waiting) == [*range(1, len(waiting) + 1)]
    return dict(waiting)


def whose(generations: Sequence[Generation]) -> str:
    """The tenants of generations, each one letter."""
    return "".join(generation.tenant for generation in generations)
