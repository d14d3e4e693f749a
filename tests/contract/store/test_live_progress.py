"""The progress that a server records for the others: of attempts that run, and of none that has ended."""

from sqlalchemy import update

from server.core.events import Live
from server.core.generation import Generation
from server.storage.db.schema import attempts
from server.storage.db.statements.live_progress import lives_of
from tests.contract.store.examples import claimed, read, released
from tests.support.records import StandaloneStore as Store

LIVE = Live(0.25, 12.5, "denoising", 4, 16, 3)


def recorded(store: Store, *generations: Generation) -> dict[str, Live]:
    with store.engine.connect() as tx:
        return lives_of(tx, generations)


async def test_the_newest_progress_of_an_attempt_is_kept_until_it_ends(store: Store) -> None:
    held, other = await claimed(store), await claimed(store)
    assert recorded(store, held, other) == {}

    await store.live_progress.record({(held.id, held.attempt): Live(0.1), (other.id, other.attempt): Live(0.2)})
    await store.live_progress.record({(held.id, held.attempt): LIVE})

    assert recorded(store, held, other) == {held.id: LIVE, other.id: Live(0.2)}
    await store.attempts.succeed(held, "file.mp4")
    assert recorded(store, held, await read(store, held.id)) == {}


async def test_an_attempt_that_is_over_records_no_progress_for_the_next(store: Store) -> None:
    first = await claimed(store)
    await released(store, first)
    second = await store.attempts.claim("me", 60)
    assert second is not None

    await store.live_progress.record({(first.id, first.attempt): LIVE})
    assert recorded(store, first, second) == {}

    await store.live_progress.record({(second.id, second.attempt): LIVE})
    assert recorded(store, second) == {second.id: LIVE}


async def test_progress_of_another_version_is_read_as_far_as_it_is_known(store: Store) -> None:
    held, other = await claimed(store), await claimed(store)
    with store.engine.begin() as tx:
        for each, live in ((held, {"progress": 0.5, "mood": "good"}), (other, {"mood": "bad"})):
            tx.execute(update(attempts).where(attempts.c.generation_id == each.id).values(live=live))

    assert recorded(store, held, other) == {held.id: Live(0.5)}
