"""Videos on disk, and the signed links to them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from itsdangerous import URLSafeTimedSerializer

from server.core.errors import ResourceNotFoundError
from server.core.generation import Generation, Origin, Status
from server.storage.files.folder import FolderStorage
from server.storage.files.stills import SUFFIXES, Stills
from server.storage.files.stores import link_signer
from server.storage.files.videos import Videos, video_key

KEY = video_key("g", 1)


def videos_in(data_dir: Path) -> Videos:
    stills = Stills(FolderStorage(data_dir / "stills", *SUFFIXES), link_signer(["key"], ttl=60))
    return Videos(FolderStorage(data_dir / "videos", ".mp4"), link_signer(["key"], ttl=60), stills)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "videos"


@pytest.fixture
def videos(tmp_path: Path, folder: Path) -> Videos:
    """With one video."""
    videos = videos_in(tmp_path)
    (folder / KEY).write_bytes(b"video")
    return videos


async def test_a_link_opens_its_file_also_after_a_restart(videos: Videos, tmp_path: Path) -> None:
    token = videos.links.sign(KEY)

    assert token.endswith(".mp4")
    for each in (videos, videos_in(tmp_path)):
        found = await each.links.find(token)
        assert (found.key, found.size) == (KEY, 5)
        assert await each.read(found.key) == b"video"


@pytest.mark.parametrize("forge", [lambda t: t[:-5] + ".mp4", lambda t: "x" + t, lambda _: "", lambda _: "g.1.mp4"])
async def test_a_forged_link_opens_nothing(videos: Videos, forge: Callable[[str], str]) -> None:
    with pytest.raises(ResourceNotFoundError, match="no such file"):
        await videos.links.find(forge(videos.links.sign(KEY)))


async def test_a_link_signed_elsewhere_opens_nothing(videos: Videos) -> None:
    token = URLSafeTimedSerializer("another key", salt="video").dumps("../signing") + ".mp4"

    with pytest.raises(ResourceNotFoundError):
        await videos.links.find(token)


async def test_a_link_expires(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    token = videos.links.sign(KEY)
    now = time.time()
    monkeypatch.setattr("server.storage.files.signing.time.time", lambda: now + 62)

    with pytest.raises(ResourceNotFoundError, match="expired"):
        await videos.links.find(token)


async def test_a_clock_that_is_set_back_breaks_no_link(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    token = videos.links.sign(KEY)
    found = await videos.links.find(token)
    now = time.time()
    monkeypatch.setattr("server.storage.files.signing.time.time", lambda: now - 3600)

    assert await videos.links.find(token) == found


async def test_a_file_that_is_gone_is_not_found(videos: Videos) -> None:
    token = videos.links.sign(KEY)
    for _ in range(2):
        await videos.delete([KEY])

    with pytest.raises(ResourceNotFoundError, match="no such file"):
        await videos.links.find(token)


async def test_the_newest_finished_attempt_is_found(videos: Videos, folder: Path) -> None:
    generation = Generation(
        id="g", model="wan", status=Status.PROCESSING, origin=Origin.QUEUE, enqueued_at=0, attempt=3
    )
    assert await videos.finished(generation) == KEY
    (folder / video_key("g", 3)).write_bytes(b"video")
    assert await videos.finished(generation) == video_key("g", 3)


async def test_a_sweep_can_spare_what_is_being_written(videos: Videos, folder: Path) -> None:
    await videos.delete([KEY])
    old, new, held = (folder / f".{name}.1.mp4.part" for name in ("old", "new", "held"))
    for part in (old, new, held):
        part.write_bytes(b"half")
    for part in (old, held):
        os.utime(part, (0, 0))

    await videos.sweep(untouched_for=60, held={"held"})

    assert sorted(names(folder)) == [held.name, new.name]


async def test_a_sweep_removes_halves_and_nothing_else(videos: Videos, folder: Path) -> None:
    (folder / f".{KEY}.part").write_bytes(b"vid")

    await videos.sweep()

    assert names(folder) == [KEY]
