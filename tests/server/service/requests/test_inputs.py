"""Images of requests are decoded in turn, and what a tenant may bring has limits."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import QueueFullError, UnavailableError
from server.service.requests import inputs as module
from server.service.requests.inputs import IMAGE, MAX_WAITING, InputFiles
from server.storage.files.folder import FolderStorage
from server.storage.files.inputs import Inputs, input_key
from server.storage.files.stores import link_signer, upload_signer
from tests.contract.test_image_input import drawn, encoded
from tests.support.records import free_locks


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    folder = FolderStorage(tmp_path / "inputs", ".png", ".mp4")
    return Inputs(folder, link_signer(["key"], 60, "input"), upload_signer(["key"]), free_locks())


def sent(tmp_path: Path, seed: int) -> Path:
    path = tmp_path / f"sent {seed}"
    path.write_bytes(encoded(drawn(seed=seed)))
    return path


async def test_new_images_of_a_tenant_have_a_limit_by_the_hour(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES_PER_HOUR", 1)
    images = InputFiles(inputs)

    first = await images.keep("1", IMAGE, sent(tmp_path, 0))
    # the first may be of any size, and the same again is no new one
    assert await images.keep("1", IMAGE, sent(tmp_path, 0)) == first
    with pytest.raises(QueueFullError, match="1 bytes in all"):
        await images.keep("1", IMAGE, sent(tmp_path, 1))
    assert await images.keep("2", IMAGE, sent(tmp_path, 1))
    assert len([*inputs.storage.folder.iterdir()]) == 2  # type: ignore[attr-defined]


async def test_few_of_a_tenant_wait_and_those_of_others_do_not_wait_behind_all_of_them(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    go_on = asyncio.Event()

    async def decode(_: str, source: str, target: str, **__: Any) -> dict[str, Any]:
        begun.append(Path(source).name)
        await go_on.wait()
        await asyncio.to_thread(Path(target).write_bytes, b"PNG")
        return {"digest": "0" * 64, "width": 4, "height": 4, "warnings": ["is odd"]}

    monkeypatch.setattr(module, "run_child", decode)
    images = InputFiles(inputs)
    many = [asyncio.create_task(images.keep("1", IMAGE, sent(tmp_path, number))) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    other = asyncio.create_task(images.keep("2", IMAGE, sent(tmp_path, 99)))
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="are being read already"):
        await images.keep("1", IMAGE, sent(tmp_path, 50))
    assert begun == ["sent 0"]

    many[1].cancel()
    go_on.set()
    await other
    await asyncio.gather(*many, return_exceptions=True)
    assert begun.index("sent 99") == 1
    assert not images._waiting
    kept = await images.keep("1", IMAGE, sent(tmp_path, 50))
    assert kept is not None
    assert kept.warnings == ("input_image is odd.",)


async def test_a_folder_that_cannot_be_written_to_is_the_servers_fault(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "inputs").rmdir()

    with pytest.raises(UnavailableError, match="cannot keep inputs: No such file"):
        await InputFiles(inputs).keep("1", IMAGE, sent(tmp_path, 0))


async def test_an_image_that_comes_again_is_as_young_as_a_new_one(inputs: Inputs, tmp_path: Path) -> None:
    images = InputFiles(inputs)
    kept = await images.keep("1", IMAGE, sent(tmp_path, 0))
    assert kept is not None
    path = tmp_path / "inputs" / input_key("1", kept.digest)
    os.utime(path, (0, 0))

    await images.keep("1", IMAGE, sent(tmp_path, 0))

    assert path.stat().st_mtime > 1e9
