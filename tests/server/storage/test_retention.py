"""What is removed of the past: never too much, never what is active or new, and never a row without its file."""

import asyncio
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from pipelines.core.request import IMAGES, VideoParams
from server.core.generation import TERMINAL, Generation, Status
from server.storage.db.records import Filters, Marking, QueueLimits
from server.storage.files.generation_files import generation_of
from server.storage.files.inputs import AUDIO_SUFFIX, IMAGE_SUFFIX, VIDEO_SUFFIX, Inputs, input_key
from server.storage.files.stills import Stills
from server.storage.files.stores import LocalFolders, link_signer, upload_signer
from server.storage.files.videos import Videos, video_key
from server.storage.retention import Retention
from tests.contract.store.examples import new
from tests.support.records import StandaloneStore as Store

DAY = 24 * 3600
NOW = time.time()


@dataclass(frozen=True)
class Past:
    """A generation as it may be found: how it stands, since when, and its file's size (None: it has no file)."""

    status: Status
    age: float
    size: int | None = None
    leftover: bool = False
    """Whether an earlier attempt left its file too."""


PASTS = st.builds(
    Past,
    status=st.sampled_from(Status),
    age=st.sampled_from((0, 59, 61, 3_599, 3_601, DAY, 3 * DAY, 30 * DAY)),
    size=st.none() | st.integers(0, 100),
    leftover=st.booleans(),
)


class Place:
    """A store and its videos, with a past."""

    def __init__(self, folder: Path, **rules: float) -> None:
        self.store = Store(f"sqlite:///{folder / 'paddock.db'}")
        folders = LocalFolders.of(folder)
        self.folder, self.images = folders.videos, folders.inputs
        stills = Stills(folders.stills, link_signer(["key"], ttl=60, kind="still"))
        self.videos = Videos(self.folder, link_signer(["key"], ttl=60), stills)
        self.retention = Retention(
            self.store.expiry,
            self.videos,
            Inputs(self.images, link_signer(["key"], ttl=60, kind="input"), upload_signer(["key"]), self.store.locks),
            self.store.locks,
            days=rules.get("days", 0),
            max_bytes=int(rules.get("max_bytes", 0)),
            grace=rules.get("grace", 60),
            clock=lambda: NOW,
        )

    async def add(self, *pasts: Past) -> list[Generation]:
        """Record generations as if they had happened."""
        generations = [self._made(past) for past in pasts]
        await self.store.submissions.insert(generations, QueueLimits(10_000))
        return generations

    def _made(self, past: Past) -> Generation:
        generation = new(status=past.status, attempt=2)
        if past.size is not None:
            self.write(video_key(generation.id, 2), past.size, past.age)
        if past.leftover:
            self.write(video_key(generation.id, 1), 10, past.age)
        if past.status not in TERMINAL:
            return generation
        named = video_key(generation.id, 2) if past.status is Status.SUCCEEDED else None
        return replace(generation, completed_at=NOW - past.age, artifact=named)

    def write(self, key: str, size: int, age: float) -> None:
        path = self.folder.folder / key
        path.write_bytes(bytes(size))
        os.utime(path, (NOW - age, NOW - age))

    async def rows(self) -> dict[str, Generation]:
        return {placed.generation.id: placed.generation for placed in await self.store.newest(Filters())}

    def files(self) -> dict[str, str]:
        """The key of every video, each with its generation's id."""
        return {path.name: generation_of(path.name) for path in self.folder.folder.iterdir()}

    def total(self) -> int:
        return sum(path.stat().st_size for path in self.folder.folder.iterdir())


@given(
    pasts=st.lists(PASTS, max_size=12),
    unnamed=st.lists(st.sampled_from((0, 59, 61, 30 * DAY)), max_size=2),
    days=st.sampled_from((0, 0.001, 2)),
    max_bytes=st.sampled_from((0, 1, 50, 150)),
    grace=st.sampled_from((60, 3_600)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_past_only_what_may_go_goes(
    pasts: list[Past],
    unnamed: list[float],
    days: float,
    max_bytes: int,
    grace: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def play() -> None:
        place = Place(tmp_path_factory.mktemp("past"), days=days, max_bytes=max_bytes, grace=grace)
        before = list(zip(pasts, await place.add(*pasts), strict=True)) if pasts else []
        for number, age in enumerate(unnamed):
            place.write(video_key(f"unnamed-{number}", 1), 10, age)

        await place.retention.tidy()

        rows, files = await place.rows(), place.files()
        too_old = max(days * DAY, grace) if days else float("inf")
        for past, was in before:
            is_over = past.status in TERMINAL
            assert (was.id not in rows) == (is_over and past.age > too_old)
            if not is_over:
                # its finished files may yet be adopted
                assert set(keys(past, was)) <= set(files)
                assert replace(rows[was.id], seq=0, event_number=None) == was
            elif past.age <= grace:
                assert replace(rows[was.id], seq=0, event_number=None) == was
                assert past.size is None or was.artifact in (None, *files)
        for number, age in enumerate(unnamed):
            assert (video_key(f"unnamed-{number}", 1) in files) == (not days or age <= grace)
        check_nothing_dangles(before, rows, files)
        check_total(place, before, rows, max_bytes, grace)
        place.store.close()

    asyncio.run(play())


def keys(past: Past, was: Generation) -> list[str]:
    return [video_key(was.id, 2)] * (past.size is not None) + [video_key(was.id, 1)] * past.leftover


def check_nothing_dangles(
    before: list[tuple[Past, Generation]], rows: dict[str, Generation], files: dict[str, str]
) -> None:
    for past, was in before:
        left = {key for key, about in files.items() if about == was.id}
        if was.id not in rows:
            assert not left
        elif past.status in TERMINAL:
            now = rows[was.id]
            assert left <= {now.artifact}
            if now.artifact != was.artifact:
                assert now.error_message is not None
                assert "removed to make room" in now.error_message
            elif past.size is not None and now.artifact is not None:
                assert left == {now.artifact}


def check_total(
    place: Place, before: list[tuple[Past, Generation]], rows: dict[str, Generation], max_bytes: int, grace: float
) -> None:
    """Within the limit, by no more than it took, the oldest first; or nothing was left that may go."""
    videos = [
        (past.age, past.size, rows[was.id].artifact is not None)
        for past, was in before
        if past.status is Status.SUCCEEDED and past.size and was.id in rows
    ]
    gone = [age for age, _, is_there in videos if not is_there]
    kept = [age for age, _, is_there in videos if is_there and age > grace]
    if not max_bytes:
        assert not gone
        return
    assert place.total() <= max_bytes or not kept
    assert min(gone, default=float("inf")) >= max(kept, default=0)
    if gone:
        assert place.total() + max(size for _, size, is_there in videos if not is_there) > max_bytes


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"max_bytes": 20, "grace": 60}, [False, False, True, True]),
        ({"max_bytes": 29, "grace": 60}, [False, False, True, True]),
        ({"max_bytes": 30, "grace": 60}, [False, True, True, True]),
        ({"max_bytes": 5, "grace": 60}, [False, False, False, True]),
        ({"max_bytes": 5, "grace": 3_600}, [False, False, True, True]),
        ({"days": 0.001, "grace": 60}, [False, False, False, True]),
        ({"days": 0.001, "grace": 3_600}, [False, False, True, True]),
    ],
)
async def test_the_oldest_go_and_no_more_than_must(rules: dict[str, float], left: list[bool], tmp_path: Path) -> None:
    place = Place(tmp_path, **rules)
    generations = await place.add(*(Past(Status.SUCCEEDED, age, 10) for age in (2 * DAY, DAY, 600, 10)))

    await place.retention.tidy()

    assert [generation.artifact in place.files() for generation in generations] == left
    place.store.close()


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        # by age: all but the favourites
        ({"days": 1}, [True, False, True, True]),
        # by size: others first, the oldest first, and then favourites, the oldest first
        ({"max_bytes": 35}, [True, False, True, True]),
        ({"max_bytes": 25}, [True, False, True, False]),
        ({"max_bytes": 15}, [False, False, True, False]),
        ({"max_bytes": 5}, [False, False, False, False]),
    ],
)
async def test_favourites_go_last_and_never_by_their_age(
    rules: dict[str, float], left: list[bool], tmp_path: Path
) -> None:
    place = Place(tmp_path, **rules)
    made = await place.add(*(Past(Status.SUCCEEDED, age * DAY, 10) for age in (5, 4, 3, 0.5)))
    await place.store.library.mark("", [made[0].id, made[2].id], Marking(favourite=True, add=["kept"]))

    await place.retention.tidy()

    assert [generation.artifact in place.files() for generation in made] == left
    place.store.close()


async def test_a_crash_between_row_and_file_leaves_what_the_next_round_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, days=2, max_bytes=5)
    old, large, kept = await place.add(
        Past(Status.SUCCEEDED, 3 * DAY, 10), Past(Status.SUCCEEDED, DAY, 10), Past(Status.SUCCEEDED, 0, 1)
    )

    async def crash(_keys: object) -> None:
        raise OSError

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(place.folder, "delete", crash)
            await place.retention.tidy()
    await place.retention.tidy()

    rows = await place.rows()
    assert old.id not in rows
    assert rows[large.id].artifact is None
    assert set(place.files()) == {kept.artifact}
    place.store.close()


async def test_more_than_a_batch_is_removed_in_several_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.retention.BATCH", 3)
    place = Place(tmp_path, days=2)
    await place.add(*(Past(Status.SUCCEEDED, (10 + age) * DAY, 1, leftover=True) for age in range(8)))

    assert [await place.retention.tidy() for _ in range(3)] == [True, True, False]
    assert await place.rows() == {}
    for _ in range(4):
        await place.retention.tidy()
    assert place.files() == {}
    place.store.close()


async def test_no_round_reads_the_whole_table(tmp_path: Path) -> None:
    place = Place(tmp_path, days=2, max_bytes=5)
    await place.add(Past(Status.SUCCEEDED, DAY, 10), Past(Status.SUCCEEDED, 3 * DAY, 10))
    statements: list[tuple[str, object]] = []

    @event.listens_for(place.store.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    await place.retention.tidy()

    asked = [(statement, values) for statement, values in statements if not statement.startswith("BEGIN")]
    assert len(asked) >= 7
    with place.store.engine.connect() as connection:
        for statement, values in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()  # type: ignore[arg-type]
            assert plan
            for step in plan:
                # of a virtual table SQLite always says that; this one is asked for a key
                is_by_key = step.detail.endswith("VIRTUAL TABLE INDEX 0:=")
                assert is_by_key or "SCAN" not in step.detail, (statement, step.detail)
                assert "B-TREE" not in step.detail, (statement, step.detail)
    place.store.close()


async def test_images_go_an_hour_after_the_last_row_that_named_them(tmp_path: Path) -> None:
    place = Place(tmp_path, days=1)
    named, of_another, gone, young = (char * 64 for char in "abcd")
    rows = [
        new(tenant="1", status=Status.QUEUED, params=VideoParams("an ox", image=named)),
        new(tenant="3", status=Status.QUEUED, params=VideoParams("an ox", image=gone, last_image=of_another)),
        new(tenant="2", status=Status.QUEUED, params=VideoParams("an ox", image=of_another)),
        new(tenant="1", status=Status.FAILED, params=VideoParams("an ox", image=gone)),
    ]
    await place.store.submissions.insert(
        [replace(row, completed_at=NOW - 2 * DAY) if row.is_terminal else row for row in rows], QueueLimits(10)
    )
    files = [("1", named, 9000), ("1", of_another, 9000), ("1", gone, 9000), ("", young, 3000), ("3", of_another, 9000)]
    for tenant, digest, age in files:
        path = place.images.folder / input_key(tenant, digest)
        path.write_bytes(b"PNG")
        os.utime(path, (NOW - age, NOW - age))

    await place.retention.tidy()
    left = {path.name for path in place.images.folder.iterdir()}
    # the row of one was removed after the look at the images
    kept = {input_key("1", named), input_key("", young), input_key("3", of_another)}
    assert left == {*kept, input_key("1", gone)}

    await place.retention.tidy()
    left = {path.name for path in place.images.folder.iterdir()}
    assert left == kept
    place.store.close()


async def test_an_image_that_comes_again_while_old_ones_are_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    path = place.images.folder / input_key("1", "a" * 64)
    path.write_bytes(b"PNG")
    os.utime(path, (NOW - 9000, NOW - 9000))
    unused = place.store.expiry.unused_inputs

    async def meanwhile(images: Any) -> Any:
        found = await unused(images)
        os.utime(path, (NOW, NOW))
        return found

    monkeypatch.setattr(place.store.expiry, "unused_inputs", meanwhile)
    await place.retention.tidy()

    assert path.exists()
    place.store.close()


async def with_images(place: Place, *pasts: tuple[Status, float, int | None, str]) -> list[Generation]:
    """Record generations that ended, each with the size of its video and the image or the two that it names."""
    made = []
    for status, age, size, images in pasts:
        named = dict(zip(IMAGES, (image * 64 for image in images), strict=False))
        generation = place._made(Past(status, age, size))
        made.append(replace(generation, params=VideoParams("an ox", **named), error_message=None))
    await place.store.submissions.insert(made, QueueLimits(10))
    return made


def write_image(place: Place, name: str, size: int, age: float = 2 * DAY, suffix: str = IMAGE_SUFFIX) -> Path:
    path = place.images.folder / input_key("", name * 64, suffix)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - age, NOW - age))
    return path


async def test_images_count_and_go_with_the_videos_of_their_rows(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=45)
    old_image, new_image = write_image(place, "a", 30), write_image(place, "b", 30)
    old, new_one = await with_images(place, (Status.SUCCEEDED, 2 * DAY, 10, "a"), (Status.SUCCEEDED, DAY, 10, "b"))

    await place.retention.tidy()

    rows = await place.rows()
    assert (old_image.exists(), new_image.exists()) == (False, True)
    assert "removed to make room" in str(rows[old.id].error_message)
    assert rows[old.id].artifact is None
    kept = [each.params.image for each in (rows[old.id], rows[new_one.id]) if each.params]
    assert kept == [None, "b" * 64]
    assert rows[new_one.id].artifact == new_one.artifact
    place.store.close()


async def test_last_images_count_and_go_too(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=45)
    images = [write_image(place, name, 20) for name in "ab"]
    old, _ = await with_images(place, (Status.SUCCEEDED, 2 * DAY, 10, "ab"), (Status.SUCCEEDED, DAY, 10, "a"))

    await place.retention.tidy()

    # the first is another row's, too
    assert [image.exists() for image in images] == [True, False]
    params = (await place.rows())[old.id].params
    assert params is not None
    assert (params.image, params.last_image) == (None, None)
    place.store.close()


async def test_input_videos_count_and_go_too(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=45)
    old_file, new_file, unused = (write_image(place, name, 20, suffix=VIDEO_SUFFIX) for name in "abc")
    old, new_one = (
        replace(place._made(Past(Status.FAILED, age, None)), params=VideoParams("an ox", video=name * 64))
        for name, age in (("a", 2 * DAY), ("b", DAY))
    )
    await place.store.submissions.insert([old, new_one], QueueLimits(10))

    await place.retention.tidy()
    assert [path.exists() for path in (old_file, new_file, unused)] == [True, True, False]
    write_image(place, "d", 20, suffix=VIDEO_SUFFIX, age=60)
    (video,) = await place.add(Past(Status.SUCCEEDED, DAY / 2, 10))
    await place.retention.tidy()

    rows = await place.rows()
    assert [path.exists() for path in (old_file, new_file)] == [False, True]
    assert rows[video.id].artifact == video.artifact
    assert [each.params.video for each in (rows[old.id], rows[new_one.id]) if each.params] == [None, "b" * 64]
    place.store.close()


async def test_sounds_count_and_go_too(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=25)
    file, unused = (write_image(place, name, 20, suffix=AUDIO_SUFFIX) for name in "ab")
    heard = replace(place._made(Past(Status.FAILED, DAY, None)), params=VideoParams("an ox", audio="a" * 64))
    await place.store.submissions.insert([heard], QueueLimits(10))

    await place.retention.tidy()
    assert [path.exists() for path in (file, unused)] == [True, False]
    (video,) = await place.add(Past(Status.SUCCEEDED, DAY / 2, 10))
    await place.retention.tidy()

    rows = await place.rows()
    assert not file.exists()
    assert heard.params is not None
    assert rows[heard.id].params == replace(heard.params, audio=None)
    assert rows[video.id].artifact == video.artifact
    place.store.close()


async def test_a_last_image_without_a_first_one_counts_and_goes(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=25)
    image = write_image(place, "a", 20)
    # its first image could not be fetched
    params = VideoParams("an ox", last_image="a" * 64)
    failed = replace(place._made(Past(Status.FAILED, 2 * DAY, None)), params=params)
    await place.store.submissions.insert([failed], QueueLimits(10))
    (video,) = await place.add(Past(Status.SUCCEEDED, DAY, 10))

    await place.retention.tidy()

    rows = await place.rows()
    assert not image.exists()
    assert rows[video.id].artifact == video.artifact
    assert rows[failed.id].params == replace(params, last_image=None)
    place.store.close()


async def test_an_image_of_several_rows_goes_with_the_last(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=15)
    image = write_image(place, "a", 20)
    rows = await with_images(
        place, *((Status.SUCCEEDED, age * DAY, 10, "a") for age in (3, 2, 1)), (Status.CANCELLED, DAY / 2, None, "a")
    )

    await place.retention.tidy()
    assert image.exists()
    for _ in range(3):
        await place.retention.tidy()

    assert not image.exists()
    assert [each.params.image for each in (await place.rows()).values() if each.params] == [None] * len(rows)
    assert place.total() == 0
    place.store.close()


async def test_the_image_of_what_failed_goes_and_its_reason_stays(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=25)
    image = write_image(place, "a", 20)
    (failed,) = await with_images(place, (Status.FAILED, 2 * DAY, None, "a"))
    await place.store.submissions.insert([new(status=Status.QUEUED)], QueueLimits(10))
    (video,) = await place.add(Past(Status.SUCCEEDED, DAY, 10))

    await place.retention.tidy()

    rows = await place.rows()
    assert not image.exists()
    assert rows[failed.id].error_message is None
    assert rows[video.id].artifact == video.artifact
    place.store.close()


async def test_images_that_just_came_do_not_count(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=25)
    image = write_image(place, "a", 1000, age=60)
    (video,) = await place.add(Past(Status.SUCCEEDED, DAY, 10))

    await place.retention.tidy()

    assert image.exists()
    assert (await place.rows())[video.id].artifact == video.artifact
    place.store.close()
