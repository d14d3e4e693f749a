"""A hosted worker, without Ray."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from server.engine.ray import actor
from server.engine.ray.actor import HostedWorker, HostError
from server.engine.ray.files.folders import Folder
from server.engine.ray.options import BridgeOptions


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Those of a server, with folders that are not on this host."""
    monkeypatch.setenv("PADDOCK_DATA_DIR", str(tmp_path / "host"))
    monkeypatch.setattr(actor, "_LOCK_SECONDS", 0.5)
    elsewhere = {str(name): "/nowhere/else" for name in Folder}
    options = BridgeOptions(
        **elsewhere,
        device="cpu",
        cache="/nowhere",
        temporary="",
        address="a:1",
        host="pc",
        node_id="1",
        index=3,
        # nobody pings it, and its switch would end the test's own process
        lost_seconds=1e9,
    )
    return options.model_dump_json()


@pytest_asyncio.fixture
async def worker(options: str) -> AsyncIterator[HostedWorker]:
    hosted = HostedWorker(options)
    await hosted.start()
    yield hosted
    assert hosted._worker is not None
    with suppress(ProcessLookupError):
        hosted._worker.kill()
    await hosted._worker.wait()
    assert hosted._writer is not None
    hosted._writer.close()


async def test_a_worker_has_the_folders_of_its_host(worker: HostedWorker, tmp_path: Path) -> None:
    home = tmp_path / "host" / "hosts" / "pc" / "3"

    assert {path.name for path in home.iterdir()} >= {*Folder, "lock"}
    assert b"hello" in await anext(worker.reports())


async def test_a_device_is_held_until_its_worker_has_ended(
    worker: HostedWorker, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostError, match=r"^Device 3 is still held by another worker\.$"):
        await HostedWorker(options).start()
    # the worker alone holds it when its actor has ended
    assert worker._lock is not None
    os.close(worker._lock)
    with pytest.raises(HostError, match="still held"):
        await HostedWorker(options).start()


async def test_the_end_of_a_worker_is_the_last_report(worker: HostedWorker) -> None:
    reports = worker.reports()
    await anext(reports)
    assert worker._worker is not None

    worker._worker.kill()

    async with asyncio.timeout(20):
        rest = b"".join([data async for data in reports])
    assert rest.endswith(b'{"kind":"worker_ended","message":"it was killed by SIGKILL"}\n')
