"""Videos on disk, and the signed links to them."""

import os
from pathlib import Path

import pytest
from itsdangerous import URLSafeTimedSerializer

from server.core.errors import ResourceNotFoundError
from server.core.generation import Generation, Origin, Status
from server.storage.files.videos import Artifacts, artifact_key

KEY = artifact_key("g", 1)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    artifacts = Artifacts(tmp_path, url_ttl=60)
    artifacts.path(KEY).write_bytes(b"video")
    return artifacts


def test_a_link_opens_its_file_also_after_a_restart(artifacts: Artifacts, tmp_path: Path) -> None:
    token = artifacts.sign(KEY)

    assert token.endswith(".mp4")
    assert artifacts.open_token(token) == artifacts.path(KEY)
    assert Artifacts(tmp_path, url_ttl=60).open_token(token) == artifacts.path(KEY)


@pytest.mark.parametrize("forge", [lambda t: t[:-5] + ".mp4", lambda t: "x" + t, lambda _: "", lambda _: "g.1.mp4"])
def test_a_forged_link_opens_nothing(artifacts: Artifacts, forge: object) -> None:
    with pytest.raises(ResourceNotFoundError, match="no such file"):
        artifacts.open_token(forge(artifacts.sign(KEY)))  # type: ignore[operator]


def test_a_link_signed_elsewhere_opens_nothing(artifacts: Artifacts) -> None:
    token = URLSafeTimedSerializer("another key", salt="video").dumps("../signing") + ".mp4"

    with pytest.raises(ResourceNotFoundError):
        artifacts.open_token(token)


def test_a_link_expires(artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = artifacts.sign(KEY)
    now = artifacts._signer.make_signer(b"").get_timestamp()
    monkeypatch.setattr("itsdangerous.timed.TimestampSigner.get_timestamp", lambda _self: now + 61)

    with pytest.raises(ResourceNotFoundError, match="expired"):
        artifacts.open_token(token)


def test_a_file_that_is_gone_is_not_found(artifacts: Artifacts) -> None:
    token = artifacts.sign(KEY)
    artifacts.discard(KEY)
    artifacts.discard(KEY)

    with pytest.raises(ResourceNotFoundError, match="no such file"):
        artifacts.open_token(token)


def test_the_newest_finished_attempt_is_found(artifacts: Artifacts) -> None:
    generation = Generation(
        id="g", model="wan", status=Status.PROCESSING, origin=Origin.QUEUE, enqueued_at=0, attempt=3
    )
    assert artifacts.finished(generation) == KEY
    artifacts.path(artifact_key("g", 3)).write_bytes(b"video")
    assert artifacts.finished(generation) == artifact_key("g", 3)


def test_a_sweep_can_spare_what_is_being_written(artifacts: Artifacts) -> None:
    old, new = (artifacts.folder / f".{name}.1.mp4.part" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))

    artifacts.sweep(untouched=60)

    assert list(artifacts.folder.glob(".*")) == [new]


def test_a_sweep_removes_halves_and_nothing_else(artifacts: Artifacts) -> None:
    (artifacts.folder / f".{KEY}.part").write_bytes(b"vid")

    artifacts.sweep()

    assert [path.name for path in artifacts.folder.iterdir()] == [KEY]


def test_only_the_owner_can_read_the_signing_key(artifacts: Artifacts, tmp_path: Path) -> None:
    assert os.stat(tmp_path / "signing.key").st_mode & 0o777 == 0o600  # noqa: PTH116
