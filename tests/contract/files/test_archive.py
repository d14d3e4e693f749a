"""Archives of stored files: every byte as it was, in little memory, from each kind of storage."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from server.service.library import zip_archive as archive
from server.service.library.zip_archive import LEFT_OUT, ArchivedFile, zipped
from server.storage.files.folder import FolderStorage
from server.storage.files.interface import CHUNK_BYTES, FileStorage
from tests.contract.files.test_storage import chunks

OTHERS = 2 * 1024
"""More than an archive has besides the content of a chunk."""


async def stored(storage: FileStorage, **contents: bytes) -> list[ArchivedFile]:
    """Files of a storage, as an archive is to have them."""
    for name, content in contents.items():
        await storage.put(f"{name}.bin", chunks(content))
    return [ArchivedFile(f"{name} 湖.bin", f"{name}.bin", len(content), 1e9) for name, content in contents.items()]


async def whole(storage: FileStorage, files: list[ArchivedFile], left_out: tuple[str, ...] = ()) -> zipfile.ZipFile:
    parts = [part async for part in zipped(storage, files, left_out)]
    assert max(map(len, parts)) < CHUNK_BYTES + OTHERS
    return zipfile.ZipFile(BytesIO(b"".join(parts)))


async def test_an_archive_has_the_files_byte_by_byte(storage: FileStorage) -> None:
    contents = {"a": os.urandom(3 * CHUNK_BYTES + 1), "b": b"", "c": b"c" * CHUNK_BYTES}

    with await whole(storage, await stored(storage, **contents)) as found:
        assert found.testzip() is None
        assert {name: found.read(f"{name} 湖.bin") for name in contents} == contents
        assert len(found.infolist()) == 3
        for info in found.infolist():
            assert (info.compress_type, info.date_time) == (zipfile.ZIP_STORED, (2001, 9, 9, 1, 46, 40))


async def test_what_has_vanished_is_named_in_a_text(storage: FileStorage) -> None:
    files = await stored(storage, a=b"aa", b=b"bb", c=b"cc")
    await storage.delete(["b.bin"])

    with await whole(storage, files, ("an ox: deleted",)) as found:
        assert found.namelist() == ["a 湖.bin", "c 湖.bin", LEFT_OUT]
        assert found.read(LEFT_OUT).decode().splitlines() == [
            *("Not in this archive:", "an ox: deleted", "b 湖.bin: removed before it was downloaded")
        ]


async def test_a_storage_that_fails_ends_no_archive(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = await stored(storage, a=os.urandom(3 * CHUNK_BYTES))
    parts, rest = [], zipped(storage, [file])
    parts.append(await anext(rest))

    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("server.service.library.zip_archive._Sink.take", fail)
    with pytest.raises(OSError):
        parts += [part async for part in rest]
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(BytesIO(b"".join(parts)))


async def test_large_archives_have_lengths_of_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path, ".bin")
    contents = {name: os.urandom(700) for name in "abc"}
    files = await stored(storage, **contents)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 500)

    parts = [part async for part in zipped(storage, files)]

    content = b"".join(parts)
    # the record that an archive of 64 bits ends with
    assert b"PK\x06\x06" in content
    with zipfile.ZipFile(BytesIO(content)) as found:
        assert found.testzip() is None
        assert [found.read(info) for info in found.infolist()] == [*contents.values()]


async def test_an_entry_is_never_older_than_archives_can_tell(tmp_path: Path) -> None:
    (file,) = await stored(FolderStorage(tmp_path, ".bin"), a=b"x")

    entry = archive._entry(file.name, 0.0, file.size)

    assert entry.date_time == (1980, 1, 1, 0, 0, 0)
