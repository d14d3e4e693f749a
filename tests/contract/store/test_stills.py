"""Which videos lack stills, and what is recorded of them, on each kind of database."""

from server.core.generation import Generation
from server.storage.db.statements.stills import Undrawn
from tests.contract.store.examples import claimed, read
from tests.support.records import StandaloneStore as Store


async def made(store: Store, has_stills: bool | None = None) -> Generation:
    """A generation with a video."""
    held = await claimed(store)
    return await store.attempts.succeed(held, f"{held.id}.1.mp4", has_stills=has_stills)


def undrawn(*generations: Generation) -> list[Undrawn]:
    return [Undrawn(each.seq, each.id, str(each.artifact)) for each in generations]


async def test_videos_without_stills_are_found_newest_first(store: Store) -> None:
    old, _, middle, new = await made(store), await made(store, True), await made(store), await made(store)
    await made(store, False)
    await store.attempts.fail(await claimed(store), "no")
    await claimed(store)

    assert await store.stills.undrawn(None, 9) == undrawn(new, middle, old)
    assert await store.stills.undrawn(None, 2) == undrawn(new, middle)
    assert await store.stills.undrawn(middle.seq, 9) == undrawn(old)


async def test_what_is_noted_is_in_the_row(store: Store) -> None:
    drawn, refused = await made(store), await made(store)

    assert await store.stills.note(*undrawn(drawn), has_stills=True)
    assert await store.stills.note(*undrawn(refused), has_stills=False)

    assert (await read(store, drawn.id)).has_stills is True
    assert (await read(store, refused.id)).has_stills is False
    assert await store.stills.undrawn(None, 9) == []


async def test_nothing_is_noted_of_a_video_that_is_not_kept_any_more(store: Store) -> None:
    removed, withdrawn = await made(store), await made(store)
    videos = undrawn(removed, withdrawn)
    await store.expiry.remove([removed.id], "")
    await store.expiry.withdraw([withdrawn], "no room")

    assert [await store.stills.note(video, has_stills=True) for video in videos] == [False, False]
    assert (await read(store, withdrawn.id)).has_stills is None
    assert await store.stills.undrawn(None, 9) == []
