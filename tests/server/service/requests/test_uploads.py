"""How long an upload lasts, for whom, and how many there may be."""

import os
import time
from pathlib import Path

import pytest

from server.core.errors import InvalidParamsError, QueueFullError
from server.service.requests import uploads as module
from server.service.requests.inputs import IMAGE, InputFiles
from server.service.requests.uploads import Uploads
from server.storage.files import signing
from server.storage.files.folder import FolderStorage
from server.storage.files.inputs import UPLOAD_SECONDS, Inputs, input_key
from server.storage.files.stores import link_signer, upload_signer
from tests.contract.test_image_input import drawn, encoded
from tests.support.records import free_locks


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    folder = FolderStorage(tmp_path / "inputs", ".png", ".mp4")
    return Inputs(folder, link_signer(["key"], 60, "input"), upload_signer(["key"]), free_locks())


@pytest.fixture
def uploads(inputs: Inputs) -> Uploads:
    return Uploads(inputs, InputFiles(inputs))


def sent(tmp_path: Path, seed: int = 0) -> Path:
    path = tmp_path / f"sent {seed}"
    path.write_bytes(encoded(drawn(seed=seed)))
    return path


async def test_an_upload_is_its_tenants_alone(uploads: Uploads, tmp_path: Path) -> None:
    upload = await uploads.keep("1", sent(tmp_path))

    assert await uploads.find("1", IMAGE, upload.id) == upload.input
    for tenant in ("2", "", "11"):
        # also one that has the same image
        await uploads.keep(tenant, sent(tmp_path))
        with pytest.raises(InvalidParamsError, match="no such upload"):
            await uploads.find(tenant, IMAGE, upload.id)


async def test_an_upload_ends_after_an_hour(uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await uploads.keep("1", sent(tmp_path))
    now = time.time()
    assert abs(upload.expires - now - 3600) < 60

    monkeypatch.setattr(signing.time, "time", lambda: now + UPLOAD_SECONDS + 2)
    with pytest.raises(InvalidParamsError, match="it has expired"):
        await uploads.find("1", IMAGE, upload.id)


async def test_an_image_that_is_named_is_as_young_as_a_new_one(uploads: Uploads, tmp_path: Path) -> None:
    upload = await uploads.keep("1", sent(tmp_path))
    path = tmp_path / "inputs" / input_key("1", upload.input.digest)
    content = path.read_bytes()
    os.utime(path, (0, 0))

    await uploads.find("1", IMAGE, upload.id)

    assert path.stat().st_mtime > 1e9
    assert path.read_bytes() == content


async def test_uploads_of_a_tenant_have_a_limit_by_the_hour(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = tmp_path / "no image"
    refused.write_bytes(bytes(1000))
    size = len(encoded(drawn()))
    monkeypatch.setattr(module, "MAX_BYTES_PER_HOUR", size + 1)
    uploads = Uploads(uploads._inputs, uploads._files)

    # what is refused does not count
    with pytest.raises(InvalidParamsError):
        await uploads.keep("1", refused)
    await uploads.keep("1", sent(tmp_path))
    with pytest.raises(QueueFullError, match=f"Uploads of {size + 1} bytes in all"):
        await uploads.keep("1", sent(tmp_path))
    assert await uploads.keep("2", sent(tmp_path))
