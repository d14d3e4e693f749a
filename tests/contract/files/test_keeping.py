"""What is kept, removed and found again, on a folder and in an object store."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from server.core.generation import Generation, Status
from server.core.settings.settings import Settings
from server.runtime.app import build_files
from server.storage.db.records import QueueLimits
from server.storage.files.checkpoints import checkpoint_key
from server.storage.files.disk import Disk
from server.storage.files.inputs import input_key
from server.storage.files.interface import FileStorage
from server.storage.files.stills import still_keys
from server.storage.files.stores import FileStores, LocalFolders
from server.storage.files.videos import video_key
from server.storage.retention import Retention
from tests.contract.store.examples import PARAMS, new
from tests.support.records import StandaloneStore as Store

HOUR = 3600.0
DIGEST = "a" * 64


@dataclass
class Place:
    """Records and files. Everything that a test puts there is two hours old when the retention looks."""

    store: Store
    files: FileStores

    def retention(self, *, days: float = 0, max_bytes: int = 0, count_every: float = 0) -> Retention:
        return Retention(
            self.store.expiry,
            self.files.videos,
            self.files.inputs,
            self.store.locks,
            days=days,
            max_bytes=max_bytes,
            grace=60,
            count_every=count_every,
            clock=lambda: time.time() + 2 * HOUR,
        )

    async def add(self, age: float, **changes: object) -> Generation:
        """A finished generation that ended so long before all the others, with its video of 10 bytes."""
        made = new(status=Status.SUCCEEDED, attempt=2, completed_at=time.time() - age, **changes)
        made = replace(made, artifact=video_key(made.id, 2))
        await self.store.submissions.insert([made], QueueLimits(100))
        await put(self.files.videos.storage, video_key(made.id, 2), 10)
        return made

    async def draw(self, video: str | None) -> set[str]:
        """Put stills of 5 bytes each beside a video, and return their keys."""
        assert video is not None
        keys = set(still_keys(video).values())
        for key in keys:
            await put(self.files.videos.stills.storage, key, 5)
        return keys

    async def stills(self) -> set[str]:
        return {file.key for file in await self.files.videos.stills.storage.list()}

    async def videos(self) -> set[str]:
        return {file.key for file in await self.files.videos.storage.list()}


async def put(storage: FileStorage, key: str, size: int) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield bytes(size)

    await storage.put(key, content())


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    url = request.getfixturevalue("bucket_url") if request.param == "s3" else None
    settings = Settings(data_dir=tmp_path, files_url=url)
    folders = LocalFolders.of(tmp_path, is_scratch=url is not None)
    store = Store(f"sqlite:///{tmp_path / 'paddock.db'}")
    files = build_files(settings, folders, Disk(tmp_path, 0), ["key"], store.locks)
    yield Place(store, files)
    store.close()


async def test_the_oldest_videos_go_beyond_the_limit(place: Place) -> None:
    old, young = await place.add(30), await place.add(20)
    newest = await place.add(10)

    await place.retention(max_bytes=20).tidy()

    assert await place.videos() == {young.artifact, newest.artifact}
    assert [row.artifact for row in await place.store.expiry.oldest_with_files(time.time() + HOUR, 9)] == [
        young.artifact,
        newest.artifact,
    ]
    assert old.artifact not in await place.videos()


async def test_files_are_counted_no_more_often_than_is_allowed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = 0
    total_size = place.files.videos.storage.total_size

    async def counted() -> int:
        nonlocal counts
        counts += 1
        return await total_size()

    monkeypatch.setattr(place.files.videos.storage, "total_size", counted)
    retention = place.retention(max_bytes=20, count_every=600)
    await place.add(30)
    await retention.tidy()
    for _ in range(3):
        await place.add(20)
        await retention.tidy()

    assert counts == 1
    assert len(await place.videos()) == 4
    retention._counted_at = time.time() + 2 * HOUR - 601
    await retention.tidy()
    # once more after something was removed, since that was a guess
    await retention.tidy()
    await retention.tidy()
    assert counts == 3
    assert len(await place.videos()) == 2


async def test_what_no_row_names_goes_and_what_may_be_adopted_stays(place: Place) -> None:
    done = await place.add(10)
    running = new(status=Status.PROCESSING, attempt=3)
    await place.store.submissions.insert([running], QueueLimits(100))
    for key in (video_key(done.id, 1), video_key("unknown", 1), video_key(running.id, 2)):
        await put(place.files.videos.storage, key, 5)

    await place.retention(days=100).tidy()

    assert await place.videos() == {done.artifact, video_key(running.id, 2)}
    assert await place.files.videos.finished(running) == video_key(running.id, 2)
    await put(place.files.videos.storage, video_key(running.id, 3), 5)
    assert await place.files.videos.finished(running) == video_key(running.id, 3)


async def test_stills_are_removed_with_their_video(place: Place) -> None:
    made, forgotten = await place.add(10), await place.add(10 * HOUR)
    others = [await place.draw((await place.add(10)).artifact), await place.draw("running.1.mp4")]
    running = new(id="running", status=Status.PROCESSING, attempt=1)
    await place.store.submissions.insert([running], QueueLimits(100))
    for generation in (made, forgotten):
        await place.draw(generation.artifact)

    assert await place.retention().remove([made.id], "")
    await place.retention(days=8 / 24).tidy()

    assert await place.stills() == set.union(*others)


async def test_stills_count_with_their_videos(place: Place) -> None:
    old, young = await place.add(30), await place.add(20)
    await place.draw(old.artifact)
    kept = await place.draw(young.artifact)

    # both are 40 bytes, of which the videos are 20
    await place.retention(max_bytes=39).tidy()

    assert await place.videos() == {young.artifact}
    assert await place.stills() == kept
    await place.retention(max_bytes=20).tidy()
    assert await place.videos() == {young.artifact}


async def test_stills_without_their_video_in_a_row_are_swept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.retention.BATCH", 3)
    done = await place.add(10)
    kept = await place.draw(done.artifact)
    lost = replace(new(status=Status.FAILED, attempt=1), completed_at=time.time())
    await place.store.submissions.insert([lost], QueueLimits(100))
    for video in (video_key(done.id, 1), video_key("unknown", 1), video_key(lost.id, 1)):
        await place.draw(video)
    retention = place.retention()

    for _ in range(4):
        await retention.tidy()

    assert await place.stills() == kept
    # unlike a new one, whose row may come in a moment
    await place.draw("unknown.1.mp4")
    retention._grace = 3 * HOUR
    for _ in range(2):
        await retention.tidy()
    assert await place.stills() == kept | set(still_keys("unknown.1.mp4").values())


async def test_inputs_go_an_hour_after_the_last_row_that_named_them(place: Place) -> None:
    used, unused = input_key("", DIGEST), input_key("", "b" * 64)
    await place.add(10, params=replace(PARAMS, image=DIGEST))
    for key in (used, unused):
        await put(place.files.inputs.storage, key, 7)

    await place.retention().tidy()

    assert {file.key for file in await place.files.inputs.storage.list()} == {used}


async def test_the_checkpoints_of_a_generation_are_found_and_removed_together(place: Place) -> None:
    checkpoints, own = place.files.checkpoints, replace(new(), attempt=12)
    others = [replace(own, id=own.id + "0", attempt=99), replace(own, id=own.id[:-1], attempt=99)]
    assert await checkpoints.newest(own) is None
    old = f"{own.id}.ckpt"
    await put(checkpoints.storage, old, 1)
    assert await checkpoints.newest(own) == old
    for attempt in (2, 9, 10, 12, 13):
        await put(checkpoints.storage, checkpoint_key(own.id, attempt), 1)
    for other in others:
        await put(checkpoints.storage, checkpoint_key(other.id, 11), 1)

    # by number, and neither its own nor a later one
    assert await checkpoints.newest(own) == checkpoint_key(own.id, 10)
    await checkpoints.supersede(own)
    left = {checkpoint_key(own.id, 12), checkpoint_key(own.id, 13)}
    assert set(await checkpoints.keys_of(own.id)) == left
    await checkpoints.discard(own)
    assert {file.key for file in await checkpoints.storage.list()} == {checkpoint_key(other.id, 11) for other in others}


async def test_a_generation_may_have_many_files(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.files.generation_files._OF_ONE", 2)
    keys = [f"g.{number}.ckpt" for number in range(5)]
    for key in [*keys, "f.1.ckpt", "h.1.ckpt"]:
        await put(place.files.checkpoints.storage, key, 1)

    assert await place.files.checkpoints.keys_of("g") == keys
