"""Files between a server and a host, which is a folder here."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.core.request import VideoParams
from server.engine.interface import WorkerOptions
from server.engine.protocol import Run
from server.engine.ray.files.folders import CHUNK_BYTES, Folder, WorkerFolders
from server.engine.ray.files.relay import FileRelay

PARAMS = VideoParams("an ox", " ", 64, 64, 5, 3, 5.0, 7)
IMAGE = Folder.INPUTS, "0.abc.png"


class FakeHost:
    """A host whose files are in a folder. Removing waits for `may_remove`."""

    def __init__(self, folders: WorkerFolders) -> None:
        self._folders = folders
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.removes = asyncio.Event()

    async def read(self, folder: Folder, key: str) -> AsyncIterator[bytes]:
        async for chunk in self._folders.read(folder, key):
            yield chunk

    async def append(self, folder: Folder, key: str, chunk: bytes, is_first: bool) -> None:
        await self._folders.append(folder, key, chunk, is_first=is_first)

    async def complete(self, folder: Folder, key: str) -> None:
        await self._folders.complete(folder, key)

    async def remove(self, folder: Folder, key: str) -> None:
        self.removes.set()
        await self.may_remove.wait()
        await self._folders.remove(folder, key)


class Side:
    """The folders of one side."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = {str(name): str(root / name) for name in Folder}
        self.folders = WorkerFolders(WorkerOptions(device="cpu", cache="", temporary="", **folders))
        self.folders.make()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path) -> Side:
    side = Side(tmp_path / "here")
    (side.root / "inputs" / IMAGE[1]).write_bytes(b"i" * (2 * CHUNK_BYTES + 1))
    return side


@pytest.fixture
def there(tmp_path: Path) -> Side:
    return Side(tmp_path / "there")


async def nothing() -> None:
    pass


def run(attempt: int = 1, resume_from: str | None = None) -> Run:
    return Run(
        generation_id="g",
        attempt=attempt,
        params=PARAMS,
        artifact=f"g.{attempt}.mp4",
        checkpoint=f"g.{attempt}.ckpt",
        preview="g.jpg",
        resume_from=resume_from,
        image=IMAGE[1],
    )


async def test_a_run_brings_what_it_reads_and_leaves_nothing(here: Side, there: Side) -> None:
    (here.root / "checkpoints" / "g.1.ckpt").write_bytes(b"saved")
    relay = FileRelay(here.folders, FakeHost(there.folders), nothing)

    await relay.bring(order := run(2, resume_from="g.1.ckpt"))
    assert there.files() == {f"inputs/{IMAGE[1]}", "checkpoints/g.1.ckpt"}
    assert (there.root / "inputs" / IMAGE[1]).read_bytes() == (here.root / "inputs" / IMAGE[1]).read_bytes()
    (there.root / "artifacts" / "g.2.mp4").write_bytes(b"video")
    await relay.fetch(Folder.ARTIFACTS, "g.2.mp4")
    await relay.end(order)

    assert there.files() == set()
    assert (here.root / "artifacts" / "g.2.mp4").read_bytes() == b"video"


async def test_what_the_server_does_not_have_is_not_brought(here: Side, there: Side) -> None:
    relay = FileRelay(here.folders, FakeHost(there.folders), nothing)

    await relay.bring(run(2, resume_from="g.1.ckpt"))

    assert there.files() == {f"inputs/{IMAGE[1]}"}


async def test_an_image_stays_while_another_run_needs_it(here: Side, there: Side) -> None:
    relay = FileRelay(here.folders, FakeHost(there.folders), nothing)
    for attempt in (1, 2):
        await relay.bring(run(attempt))

    await relay.end(run(1))
    assert there.files() == {f"inputs/{IMAGE[1]}"}
    await relay.end(run(2))
    assert there.files() == set()


async def test_an_image_that_is_brought_while_it_is_removed_is_there_at_last(here: Side, there: Side) -> None:
    host = FakeHost(there.folders)
    relay = FileRelay(here.folders, host, nothing)
    await relay.bring(run(1))
    host.may_remove.clear()
    ending = asyncio.create_task(relay.end(run(1)))
    await host.removes.wait()

    bringing = asyncio.create_task(relay.bring(run(2)))
    await asyncio.sleep(0.05)
    host.may_remove.set()
    await asyncio.gather(ending, bringing)

    assert there.files() == {f"inputs/{IMAGE[1]}"}


async def test_each_chunk_shows_that_the_worker_lives(here: Side, there: Side) -> None:
    (there.root / "artifacts" / "g.1.mp4").write_bytes(bytes(3 * CHUNK_BYTES))
    shown = []

    async def show() -> None:
        shown.append(1)

    await FileRelay(here.folders, FakeHost(there.folders), show).fetch(Folder.ARTIFACTS, "g.1.mp4")

    assert len(shown) == 3


async def test_a_file_that_cannot_be_stored_leaves_no_part(
    here: Side, there: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there.root / "artifacts" / "g.1.mp4").write_bytes(bytes(2 * CHUNK_BYTES))
    before = here.files()

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(here.folders, "complete", full)
    with pytest.raises(OSError, match="No space left"):
        await FileRelay(here.folders, FakeHost(there.folders), nothing).fetch(Folder.ARTIFACTS, "g.1.mp4")

    assert here.files() == before


@pytest.mark.parametrize("key", ["../g.mp4", "a/b.mp4", ".hidden", "/etc/passwd"])
async def test_a_key_names_no_other_folder(here: Side, key: str) -> None:
    with pytest.raises(ValueError, match="not a storage key"):
        await here.folders.append(Folder.ARTIFACTS, key, b"", is_first=True)
