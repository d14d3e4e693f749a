"""What is particular to an object store: how it fails, what it leaves, and how little it keeps in memory."""

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.storage.files.interface import FileStorage
from server.storage.files.object_store import storage as module
from server.storage.files.object_store.bucket import Bucket, ObjectStoreError, ObjectStoreUnusableError, _detail
from server.storage.files.object_store.storage import ObjectStorage
from tests.support.object_store import BUCKET, ObjectStoreServer, nowhere


async def content(*chunks: bytes) -> AsyncIterator[bytes]:
    for each in chunks:
        yield each


async def read(storage: FileStorage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key)])


CALLS: dict[str, Callable[[FileStorage], Coroutine[Any, Any, object]]] = {
    "put": lambda files: files.put("a.bin", content(b"x")),
    "a large put": lambda files: files.put("a.bin", content(bytes(6 * 2**20))),
    "touch": lambda files: files.touch("a.bin"),
    "stat": lambda files: files.stat(["a.bin", "b.bin"]),
    "open": lambda files: read(files, "a.bin"),
    "delete": lambda files: files.delete(["a.bin"]),
    "list": lambda files: files.list(),
    "total_size": lambda files: files.total_size(),
    "sweep": lambda files: files.sweep(0, lambda _: False),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_store_that_is_away_is_an_error_at_once(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    away = ObjectStorage(Bucket.of(nowhere(monkeypatch)), "files", ".bin")
    began = time.monotonic()

    with pytest.raises(ObjectStoreError, match="failed or cannot be reached") as raised:
        await CALLS[call](away)

    assert isinstance(raised.value, OSError)
    assert time.monotonic() - began < 10


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    """A store that takes connections and never answers; it is given half a second."""
    nowhere(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        bucket = Bucket.of(f"s3://{BUCKET}/silent")
        bucket.patience = 0.5
        yield ObjectStorage(bucket, "files", ".bin")


@pytest.mark.parametrize("call", CALLS)
async def test_a_store_that_never_answers_is_an_error_in_time(call: str, silent: ObjectStorage) -> None:
    began = time.monotonic()

    with pytest.raises(ObjectStoreError, match="does not answer"):
        await CALLS[call](silent)

    assert time.monotonic() - began < 10


async def test_an_outage_is_logged_once_and_its_end(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "paddock.files")
    bucket = Bucket.of(bucket_url)
    storage, client = ObjectStorage(bucket, "files", ".bin"), bucket.client
    bucket.client = Bucket.of(nowhere(monkeypatch)).client
    for _ in range(3):
        with pytest.raises(ObjectStoreError):
            await storage.list()
    bucket.client = client
    for _ in range(2):
        assert await storage.list() == []

    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("the object store failed or cannot be reached: ")
    assert second == "the object store answers again"
    assert "X-Amz" not in caplog.text


async def test_a_file_that_is_replaced_while_it_is_read_is_never_mixed(bucket_url: str) -> None:
    storage = ObjectStorage(Bucket.of(bucket_url), "files", ".bin")
    await storage.put("a.bin", content(b"a" * 3 * 2**20))
    opened = storage.open("a.bin")
    assert (await anext(opened))[:1] == b"a"
    await storage.put("a.bin", content(b"b" * 3 * 2**20))

    with pytest.raises(ObjectStoreError, match="was replaced"):
        assert {chunk[:1] async for chunk in opened} == {b"a"}


async def test_a_large_file_is_never_in_memory(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(Bucket.of(bucket_url), "files", ".bin")
    taken = asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(40):
            asked += 1
            yield bytes(2**20)

    put_async = __import__("obstore").put_async

    async def watched(client: object, path: str, parts: AsyncIterator[bytes], **options: Any) -> object:
        nonlocal taken

        async def counted() -> AsyncIterator[bytes]:
            nonlocal taken
            async for part in parts:
                taken += len(part)
                # it has not read ahead
                assert asked * 2**20 - taken <= 2**20
                yield part

        assert options["use_multipart"]
        assert options["chunk_size"] * options["max_concurrency"] <= 16 * 2**20
        return await put_async(client, path, counted(), **options)

    monkeypatch.setattr("obstore.put_async", watched)
    await storage.put("a.bin", endless())

    assert taken == asked * 2**20 == 40 * 2**20
    assert (await storage.stat(["a.bin"]))["a.bin"].size == 40 * 2**20


async def test_a_sweep_removes_what_a_killed_server_left_of_a_touch(
    bucket_url: str, s3: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = ObjectStorage(Bucket.of(bucket_url), "files", ".bin")
    await storage.put("a.bin", content(b"x"))
    left = f"{bucket_url.rsplit('/', maxsplit=1)[-1]}/touched/files/left"
    s3.client().put_object(Bucket=BUCKET, Key=left, Body=b"x")
    await storage.sweep(0, lambda _: False)
    assert left in objects(s3)

    monkeypatch.setattr(module, "_ABANDONED_SECONDS", -60.0)
    await storage.sweep(-60, lambda _: False)

    assert left not in objects(s3)
    assert [file.key for file in await storage.list()] == ["a.bin"]


def objects(s3: ObjectStoreServer) -> set[str]:
    return {each["Key"] for each in s3.client().list_objects_v2(Bucket=BUCKET)["Contents"]}


async def test_kinds_of_files_and_prefixes_are_apart(bucket_url: str) -> None:
    bucket = Bucket.of(bucket_url)
    kinds = [ObjectStorage(bucket, "files", ".bin"), ObjectStorage(bucket, "files2", ".bin")]
    kinds.append(ObjectStorage(Bucket.of(f"{bucket_url}/deeper"), "files", ".bin"))
    for number, kind in enumerate(kinds):
        await kind.put(f"{number}.bin", content(b"x"))

    assert [[file.key for file in await kind.list()] for kind in kinds] == [["0.bin"], ["1.bin"], ["2.bin"]]


async def test_many_are_found_at_once(bucket_url: str) -> None:
    storage = ObjectStorage(Bucket.of(bucket_url), "files", ".bin")
    keys = [f"{number}.bin" for number in range(40)]
    await asyncio.gather(*(storage.put(key, content(key.encode())) for key in keys))

    assert set(await storage.stat([*keys, "none.bin"])) == set(keys)
    assert await storage.stat([]) == {}
    await storage.delete(keys)
    assert await storage.list() == []


async def test_an_upload_may_take_long_as_long_as_it_goes_on(bucket_url: str) -> None:
    bucket = Bucket.of(bucket_url)
    storage = ObjectStorage(bucket, "files", ".bin")
    bucket.patience = 1.5

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(14):
            yield bytes(2**20)
            await asyncio.sleep(0.25)

    began = time.monotonic()
    await storage.put("a.bin", slow())

    assert time.monotonic() - began > 2 * bucket.patience
    assert (await storage.stat(["a.bin"]))["a.bin"].size == 14 * 2**20


async def test_other_objects_of_the_folder_are_no_files_of_ours(bucket_url: str, s3: ObjectStoreServer) -> None:
    storage = ObjectStorage(Bucket.of(bucket_url), "files", ".bin")
    for name in ("1.bin", "2.bin", "3.bin", "4.bin"):
        await storage.put(name, content(b"x"))
    for name in ("1.txt", "2.bin/deeper.bin"):
        key = f"{bucket_url.removeprefix(f's3://{BUCKET}/')}/files/{name}"
        s3.client().put_object(Bucket=BUCKET, Key=key, Body=b"theirs")

    assert [file.key for file in await storage.list(limit=3)] == ["1.bin", "2.bin", "3.bin"]
    assert [file.key for file in await storage.list(after="3.bin", limit=3)] == ["4.bin"]
    assert await storage.total_size() == 4


async def test_a_touch_leaves_nothing_and_a_file_says_what_it_is(
    bucket_url: str, s3: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
    storage = ObjectStorage(Bucket.of(bucket_url), "inputs", ".mp4", ".png")
    prefix = bucket_url.rsplit("/", maxsplit=1)[-1]
    for key, media_type in (("a.mp4", "video/mp4"), ("a.png", "image/png")):
        await storage.put(key, content(b"x"))
        assert await storage.touch(key)
        head = s3.client().head_object(Bucket=BUCKET, Key=f"{prefix}/inputs/{key}")
        assert head["ContentType"] == media_type

    assert {key for key in objects(s3) if key.startswith(prefix)} == {
        f"{prefix}/inputs/a.mp4",
        f"{prefix}/inputs/a.png",
    }


def test_what_is_logged_of_an_error_holds_no_signature() -> None:
    said = _detail(OSError("GET https://host/a.mp4?sig=SECRET, after 3 tries\n\nDebug: ?sig=SECRET"))

    assert said == "GET https://host/a.mp4, after 3 tries"
    assert len(_detail(OSError("x" * 1000))) == 300


def test_a_bucket_that_loses_what_is_written_is_refused(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obstore.list", lambda *_: [])

    with pytest.raises(ObjectStoreUnusableError, match="lost a test object"):
        Bucket.of(bucket_url).try_out()


def test_a_bucket_is_tried_out_before_it_is_used(bucket_url: str, s3: ObjectStoreServer) -> None:
    Bucket.of(bucket_url).try_out(signs=True)

    assert not [key for key in objects_of(s3) if key.startswith(bucket_url.rsplit("/", maxsplit=1)[-1])]
    with pytest.raises(ObjectStoreUnusableError, match="no such bucket"):
        Bucket.of("s3://another-bucket/prefix").try_out()


def objects_of(s3: ObjectStoreServer) -> list[str]:
    return [each["Key"] for each in s3.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_a_bucket_that_is_away_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    url = nowhere(monkeypatch)

    with pytest.raises(ObjectStoreUnusableError) as raised:
        Bucket.of(url).try_out()

    sentence = str(raised.value)
    assert sentence.startswith(f"The files cannot be kept in {url}: the object store failed or cannot be reached. ")
    assert "\n" not in sentence


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("obstore", "obstore.store", "obstore.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ObjectStoreUnusableError, match=r"pip install 'paddock\[object-store\]'"):
        Bucket.of("s3://bucket")


def test_a_store_without_credentials_that_it_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)

    with pytest.raises(ObjectStoreUnusableError, match=r"az://container cannot be used: .*ccount"):
        Bucket.of("az://container")


def test_credentials_come_from_a_file_before_the_environment(
    s3: ObjectStoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = nowhere(monkeypatch).replace("/away", "/from-a-file")
    given = tmp_path / "object-store"
    lines = [f"{name}={value}" for name, value in s3.environment.items()]
    given.write_text(
        "\n".join(["# of the store", "", f"export {lines[0]}", *lines[1:-1], f'AWS_ENDPOINT_URL="{s3.url}"'])
    )

    Bucket.of(away, given).try_out()
    with pytest.raises(ObjectStoreUnusableError, match="cannot be reached"):
        Bucket.of(away).try_out()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"AWS_SECRET_ACCESS_KEY: hidden", "line 1, must be NAME=value"),
        (b"AWS_REGION=here\nPGPASSWORD=hidden", "line 2, must be NAME=value"),
        (b"\xffhidden", "is not a text in UTF-8"),
        (b"#" * 65_537, "is larger than 65536 bytes"),
        (None, "cannot be read: No such file"),
    ],
    ids=["no line of it", "of something else", "bytes", "too large", "missing"],
)
def test_a_wrong_file_of_credentials_is_refused_without_its_content(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    given = tmp_path / "object-store"
    if content is not None:
        given.write_bytes(content)

    with pytest.raises(ObjectStoreUnusableError, match=f"files_credentials: .*{why}") as raised:
        Bucket.of("s3://bucket", given)
    assert "hidden" not in str(raised.value)


async def test_the_event_loop_goes_on_meanwhile(bucket_url: str) -> None:
    storage = ObjectStorage(Bucket.of(bucket_url), "files", ".bin")
    longest, last, is_over = 0.0, time.monotonic(), threading.Event()

    async def tick() -> None:
        nonlocal longest, last
        while not is_over.is_set():
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    ticking = asyncio.create_task(tick())
    await storage.put("a.bin", content(*(bytes(2**20) for _ in range(20))))
    assert len(await read(storage, "a.bin")) == 20 * 2**20
    is_over.set()
    await ticking
    assert longest < 5
