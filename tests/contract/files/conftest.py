"""Empty storages of each kind."""

from pathlib import Path

import pytest

from server.storage.files.folder import FolderStorage
from server.storage.files.interface import FileStorage
from server.storage.files.object_store.bucket import Bucket
from server.storage.files.object_store.storage import ObjectStorage


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    """An empty storage of each kind, for keys that end with .bin."""
    if request.param == "s3":
        return ObjectStorage(Bucket.of(request.getfixturevalue("bucket_url")), "files", ".bin")
    return FolderStorage(tmp_path / "files", ".bin")
