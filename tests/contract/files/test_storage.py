"""What every storage of files promises, whatever keeps them."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from server.storage.files.folder import FolderStorage
from server.storage.files.generation_files import GenerationFiles
from server.storage.files.interface import CHUNK_BYTES, FileStorage
from server.storage.files.object_store.storage import ObjectStorage

HOSTILE = ("", ".bin", "../a.bin", "a/b.bin", ".a.bin", "a\0.bin", "a\n.bin", "a\udcff.bin", "a.txt", "/etc/a.bin")


async def chunks(*content: bytes) -> AsyncIterator[bytes]:
    for each in content:
        yield each


async def read(storage: FileStorage, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key, start, end)])


async def test_what_is_put_is_read_back_with_its_size_and_time(storage: FileStorage) -> None:
    await storage.put("a.1.bin", chunks(b"01234", b"", b"56789"))

    found = await storage.stat(["a.1.bin", "b.bin"])

    assert set(found) == {"a.1.bin"}
    assert (found["a.1.bin"].key, found["a.1.bin"].size) == ("a.1.bin", 10)
    assert found["a.1.bin"].modified > 1e9
    assert await read(storage, "a.1.bin") == b"0123456789"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 10, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3"),
        (9, 20, b"9"),
        (4, 4, b""),
        (10, None, b""),
    ],
)
async def test_any_range_can_be_read(storage: FileStorage, start: int, end: int | None, expected: bytes) -> None:
    await storage.put("a.bin", chunks(b"0123456789"))

    assert await read(storage, "a.bin", start, end) == expected


async def test_a_large_file_is_read_in_chunks(storage: FileStorage) -> None:
    content = os.urandom(2 * CHUNK_BYTES + 7)
    await storage.put("a.bin", chunks(content))

    read_ = [chunk async for chunk in storage.open("a.bin", 1, len(content) - 1)]

    assert b"".join(read_) == content[1:-1]
    assert max(map(len, read_)) <= CHUNK_BYTES


async def test_a_reader_may_stop_early(storage: FileStorage) -> None:
    block = 2**20
    await storage.put("a.bin", chunks(os.urandom(2 * block)))
    opened = storage.open("a.bin")
    for _ in range(block // CHUNK_BYTES):
        await anext(opened)
    reading = asyncio.ensure_future(anext(opened))
    await asyncio.sleep(0)
    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(StopAsyncIteration):
        await anext(opened)


async def test_a_file_that_does_not_exist_is_not_found(storage: FileStorage) -> None:
    with pytest.raises(FileNotFoundError):
        await read(storage, "a.bin")
    assert await storage.stat(["a.bin"]) == {}
    assert await storage.list() == []
    assert await storage.total_size() == 0
    await storage.delete(["a.bin"])


async def test_a_put_replaces_and_a_failed_one_changes_nothing(storage: FileStorage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    for expected in ([], [b"old"]):
        with pytest.raises(ZeroDivisionError):
            await storage.put("a.bin", broken())
        assert [await read(storage, file.key) for file in await storage.list()] == expected
        await storage.put("a.bin", chunks(b"old"))
    await storage.put("a.bin", chunks(b"new"))

    assert await read(storage, "a.bin") == b"new"
    assert await storage.total_size() == 3


async def test_a_file_is_seen_only_when_it_is_complete(storage: FileStorage) -> None:
    half, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"half"
        half.set()
        await go_on.wait()
        yield b" and half"

    putting = asyncio.create_task(storage.put("a.bin", slow()))
    await half.wait()
    assert await storage.list() == []
    assert await storage.stat(["a.bin"]) == {}
    # by its writer it is still written to
    await storage.sweep(60, lambda _: False)
    await storage.sweep(0, lambda key: key == "a.bin")
    go_on.set()
    await putting

    assert await read(storage, "a.bin") == b"half and half"


async def test_several_are_deleted_at_once_and_again(storage: FileStorage) -> None:
    for key in ("a.bin", "b.bin", "c.bin"):
        await storage.put(key, chunks(b"x"))

    for _ in range(2):
        await storage.delete(["a.bin", "c.bin"])

    assert [file.key for file in await storage.list()] == ["b.bin"]


async def test_a_list_is_in_order_bounded_and_goes_on_after_a_key(storage: FileStorage) -> None:
    for number in (3, 1, 2, 5, 4):
        await storage.put(f"{number}.bin", chunks(bytes(number)))

    first, second = await storage.list(limit=2), await storage.list(after="2.bin", limit=2)

    assert [(file.key, file.size) for file in first] == [("1.bin", 1), ("2.bin", 2)]
    assert [file.key for file in second] == ["3.bin", "4.bin"]
    assert [file.key for file in await storage.list(after="4.bin", limit=2)] == ["5.bin"]
    assert await storage.list(after="5.bin") == []
    assert await storage.total_size() == 15


async def test_pages_hold_every_file_once(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.files.generation_files._PAGE", 2)
    keys = [f"{number}.bin" for number in range(5)]
    for key in keys:
        await storage.put(key, chunks(b"x"))

    pages = [[file.key for file in page] async for page in GenerationFiles(storage).pages()]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [key for page in pages for key in page] == keys


@pytest.mark.parametrize("key", HOSTILE)
async def test_a_key_is_one_name(storage: FileStorage, key: str) -> None:
    with pytest.raises(ValueError, match="not a storage key"):
        await storage.put(key, chunks(b"x"))
    with pytest.raises(ValueError, match="not a storage key"):
        await read(storage, key)
    with pytest.raises(ValueError, match="not a storage key"):
        await storage.delete([key])
    with pytest.raises(ValueError, match="not a storage key"):
        await storage.stat([key])
    with pytest.raises(ValueError, match="not a storage key"):
        await storage.touch(key)


@pytest.mark.parametrize(
    "key", ["a b.bin", "ü.bin", "a%2f.bin", "a?x=1#y.bin", "a+b~c.bin", "a\\b.bin", "a..bin", "牛.bin"]
)
async def test_any_other_name_is_a_key(storage: FileStorage, key: str) -> None:
    await storage.put(key, chunks(b"content"))

    assert [file.key for file in await storage.list()] == [key]
    assert set(await storage.stat([key])) == {key}
    assert await storage.touch(key)
    assert await read(storage, key, 1, 3) == b"on"
    await storage.delete([key])
    assert await storage.list() == []


async def test_files_of_several_parts_are_whole(storage: FileStorage) -> None:
    content = os.urandom(11 * 2**20)
    pieces = (content[at : at + 700_001] for at in range(0, len(content), 700_001))

    await storage.put("a.bin", chunks(*pieces))

    assert (await storage.stat(["a.bin"]))["a.bin"].size == len(content)
    assert await read(storage, "a.bin") == content
    assert await read(storage, "a.bin", 5 * 2**20 - 3, 5 * 2**20 + 3) == content[5 * 2**20 - 3 : 5 * 2**20 + 3]


async def test_a_failed_put_of_several_parts_leaves_nothing(storage: FileStorage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(4 * 2**20)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await storage.put("a.bin", broken())

    assert await storage.list() == []
    if isinstance(storage, ObjectStorage):
        assert not storage_uploads(storage)


async def test_a_put_that_is_cancelled_while_the_disk_fails_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FolderStorage(tmp_path / "files", ".bin")
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"half"
        begun.set()
        await asyncio.Event().wait()

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    putting = asyncio.create_task(storage.put("a.bin", endless()))
    await begun.wait()
    monkeypatch.setattr(Path, "unlink", fail)
    putting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await putting


async def test_files_that_are_put_at_once_do_not_mix(storage: FileStorage) -> None:
    async def slow(letter: bytes) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield letter * 1000
            await asyncio.sleep(0)

    keys = [f"{number}.bin" for number in range(8)]
    await asyncio.gather(*(storage.put(key, slow(key[:1].encode())) for key in keys))

    for key in keys:
        assert await read(storage, key) == key[:1].encode() * 3000
    assert [file.size for file in await storage.list()] == [3000] * 8


async def test_a_touched_file_is_as_young_as_a_new_one(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await storage.touch("a.bin")
    await storage.put("a.bin", chunks(b"content"))
    await age(storage, "a.bin")
    before = (await storage.stat(["a.bin"]))["a.bin"].modified
    # so that the age shows in whole seconds
    await asyncio.sleep(1.1)
    monkeypatch.setattr("server.storage.files.object_store.storage._FRESH_SECONDS", 0.0)

    assert await storage.touch("a.bin")

    found = (await storage.stat(["a.bin"]))["a.bin"]
    assert found.modified > before
    assert found.size == 7
    assert await read(storage, "a.bin") == b"content"
    assert [file.key for file in await storage.list()] == ["a.bin"]
    assert await storage.total_size() == 7


async def test_only_an_object_store_has_urls_of_its_own(storage: FileStorage) -> None:
    await storage.put("a.bin", chunks(b"0123456789"))

    url = await storage.direct_url("a.bin", 60)

    if isinstance(storage, FolderStorage):
        assert url is None
    else:
        assert url is not None
        answer = await asyncio.to_thread(httpx.get, url, headers={"Range": "bytes=2-4"})
        assert (answer.status_code, answer.content) == (206, b"234")


async def age(storage: FileStorage, key: str) -> None:
    """Let a file in a folder be old; those of a store cannot be."""
    if isinstance(storage, FolderStorage):
        os.utime(storage.folder / key, (1e9 + 1, 1e9 + 1))


def storage_uploads(storage: ObjectStorage) -> str:
    """What the bucket holds of uploads that were not completed."""
    listed = httpx.get(f"{os.environ['AWS_ENDPOINT_URL']}/{storage.bucket.url.split('/')[2]}?uploads").text
    assert "ListMultipartUploadsResult" in listed
    return listed if "<Upload>" in listed else ""


async def test_the_event_loop_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path / "files", ".bin")
    on_the_loop = []

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            if threading.current_thread() is threading.main_thread():
                on_the_loop.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("stat", "unlink", "scandir", "rename", "replace", "open", "fsync"):
        watched(name)
    await storage.put("a.bin", chunks(b"x"))
    assert await read(storage, "a.bin") == b"x"
    assert len(await storage.list()) == len(await storage.stat(["a.bin"])) == await storage.total_size() == 1
    await storage.sweep(0, lambda _: False)
    await storage.delete(["a.bin"])

    assert on_the_loop == []


async def test_a_folders_other_files_are_left_alone(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path, ".bin")
    for name in ("notes.txt", ".notes.txt.part", ".hidden.bin"):
        (tmp_path / name).write_text("mine")

    await storage.sweep(0, lambda _: False)

    assert await storage.list() == []
    assert await storage.total_size() == 0
    assert await asyncio.to_thread(lambda: len([*tmp_path.iterdir()])) == 3
