"""Two servers that keep their files in one place: neither removes what the other counts on, nor twice as much."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation, Status
from server.storage.db.records import QueueLimits
from server.storage.db.sharing.locks import Lock
from server.storage.files.inputs import Inputs, input_key
from server.storage.files.interface import StoredFile
from server.storage.files.stills import Stills
from server.storage.files.stores import LocalFolders, link_signer, upload_signer
from server.storage.files.videos import Videos, video_key
from server.storage.retention import Retention
from tests.contract.store.examples import new
from tests.support.records import StandaloneStore as Store

DAY = 24 * 3600.0


class Server:
    """The files and records of one server, as far as retention needs them."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self.store = Store(url, server=name)
        folders = LocalFolders.of(folder)
        self.videos = Videos(folders.videos, link_signer(["key"], 60), Stills(folders.stills, link_signer(["key"], 60)))
        self.inputs = Inputs(folders.inputs, link_signer(["key"], 60), upload_signer(["key"]), self.store.locks)
        self.retention = Retention(
            self.store.expiry, self.videos, self.inputs, self.store.locks, days=0, max_bytes=50, grace=60
        )

    async def finished(self, age: float) -> Generation:
        """A generation that has ended, with its video of 10 bytes."""
        made = new(status=Status.SUCCEEDED, attempt=1, completed_at=time.time() - age)
        made = replace(made, artifact=video_key(made.id, 1))
        await self.store.submissions.insert([made], QueueLimits(100))
        await self.videos.storage.put(str(made.artifact), _bytes(10))
        return made

    async def bring(self, key: str) -> bool:
        """Let an input count as new, as for a request that names it."""
        async with self.inputs.changing():
            return await self.inputs.storage.touch(key)


async def _bytes(count: int) -> AsyncIterator[bytes]:
    yield bytes(count)


@pytest.fixture
def pair(tmp_path: Path, postgres_url: str) -> Iterator[tuple[Server, Server]]:
    servers = Server(tmp_path, postgres_url, "here"), Server(tmp_path, postgres_url, "there")
    yield servers
    for server in servers:
        server.store.close()


def old_input(folder: Path) -> tuple[str, Path]:
    """An input that nothing names, two days old."""
    key = input_key("", "a" * 64)
    path = folder / "inputs" / key
    path.write_bytes(b"PNG")
    os.utime(path, (time.time() - 2 * DAY,) * 2)
    return key, path


async def test_two_servers_remove_one_excess_once(pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = pair
    made = [await here.finished(DAY - number) for number in range(10)]
    count = here.videos.storage.total_size
    others: list[bool] = []

    async def meanwhile() -> int:
        size = await count()
        others.append(await there.retention.tidy())
        return size

    monkeypatch.setattr(here.videos.storage, "total_size", meanwhile)
    await here.retention.tidy()

    assert others == [False]
    left = {file.key for file in await here.videos.storage.list()}
    assert left == {each.artifact for each in made[5:]}
    # it is free again
    await there.finished(DAY)
    await there.retention.tidy()
    assert await there.videos.storage.total_size() == 50


async def test_an_input_that_a_request_brings_elsewhere_is_not_removed_under_it(
    pair: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    key, path = old_input(tmp_path)
    stat = here.inputs.storage.stat
    bringing: list[asyncio.Task[bool]] = []

    async def meanwhile(keys: Iterable[str]) -> dict[str, StoredFile]:
        found = await stat(keys)
        if found:
            bringing.append(asyncio.create_task(there.bring(key)))
            # without a lock it is done by now
            await asyncio.wait(bringing, timeout=1)
        return found

    monkeypatch.setattr(here.inputs.storage, "stat", meanwhile)
    await here.retention.tidy()

    (brought,) = bringing
    # it was late, and knows it
    assert (await brought, path.exists()) == (False, False)


async def test_inputs_that_another_server_writes_are_looked_at_later(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    here, there = pair
    _, path = old_input(tmp_path)

    async with there.inputs.changing():
        await here.retention.tidy()
        assert path.exists()
        async with asyncio.timeout(60), here.inputs.changing():
            # writers do not wait for each other
            pass

    await here.retention.tidy()
    assert not path.exists()


async def test_a_lock_goes_with_its_connection_and_with_whoever_is_cancelled(pair: tuple[Server, Server]) -> None:
    here, there = pair
    with pytest.raises(RecordsUnavailableError):
        async with here.store.locks.tried(Lock.TIDYING) as is_held:
            assert is_held
            with there.store.engine.begin() as tx:
                tx.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            async with there.store.locks.tried(Lock.TIDYING) as is_free:
                assert is_free

    async def hold() -> None:
        async with here.store.locks.tried(Lock.TIDYING):
            await asyncio.sleep(3600)

    for pause in (0, 0.05):
        holding = asyncio.create_task(hold())
        await asyncio.sleep(pause)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        async with there.store.locks.tried(Lock.TIDYING) as is_free:
            assert is_free


async def test_a_cancellation_is_not_lost_with_the_connection(pair: tuple[Server, Server]) -> None:
    here, there = pair
    has_it = asyncio.Event()

    async def hold() -> None:
        async with here.store.locks.tried(Lock.TIDYING):
            has_it.set()
            await asyncio.sleep(3600)

    holding = asyncio.create_task(hold())
    await has_it.wait()
    with there.store.engine.begin() as tx:
        tx.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    holding.cancel()

    with pytest.raises(asyncio.CancelledError):
        await holding
