"""Servers with a data directory each, on one PostgreSQL database: one queue, and each keeps its own claims."""

import asyncio
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import QueuePool

from server.core.errors import ConflictError, QueueFullError
from server.core.generation import Generation, Origin, Outcome, Status
from server.runtime.data_dir import DataDirInUseError, locked
from server.storage.db.connection import DatabaseUnusableError, open_database
from server.storage.db.schema import metadata
from server.storage.retention import Retention
from tests.server.conftest import Inside, StartShared, eventually
from tests.support.server_process import SMALL


async def occupied(inside: Inside) -> Generation:
    """A generation that runs on this server until it is cancelled."""
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    return generation


async def test_two_servers_race_for_200_generations_and_each_is_done_once(start_shared: StartShared) -> None:
    here, there = start_shared("here", executors=2), start_shared("there", executors=2)
    await asyncio.gather(here.start(), there.start())

    generations = [generation for _ in range(50) for generation in await here.enqueue(4)]
    finished = [await here.until(generation) for generation in generations]

    assert {generation.status for generation in finished} == {Status.SUCCEEDED}
    log = await here.store.attempt_log()
    assert Counter(entry["generation_id"] for entry in log) == Counter(generation.id for generation in generations)
    assert {entry["outcome"] for entry in log} == {Outcome.SUCCEEDED}
    did = [{path.name for path in inside.folders.videos.folder.iterdir()} for inside in (here, there)]
    assert min(map(len, did)) > 20
    assert did[0] | did[1] == {generation.artifact for generation in finished}
    assert len(did[0]) + len(did[1]) == 200


async def test_a_start_leaves_alone_what_another_server_holds(start_shared: StartShared) -> None:
    here = start_shared("here")
    await here.start()
    running = await occupied(here)
    (waiting,) = await here.enqueue(origin=Origin.SYNC)

    there = start_shared("there")
    there.engine.loading.clear()
    await there.start()

    assert (await here.read(running)).status is Status.PROCESSING
    assert there.dispatcher.live(await there.read(running)) is None
    assert await here.files.previews.preview(running.id, 1) == b"picture"
    assert (await here.read(waiting)).status is not Status.CANCELLED
    assert Outcome.ABANDONED not in await here.outcomes()


async def test_a_start_settles_what_the_same_server_left(start_shared: StartShared) -> None:
    here = start_shared("here")
    await here.start()
    running = await occupied(here)
    (waiting,) = await here.enqueue(origin=Origin.SYNC)

    # as if it had been killed: another process on its data directory, which tells it by the same name
    again = start_shared("here")
    await again.start()

    assert (await again.read(waiting)).status is Status.CANCELLED
    assert (await again.until(running)).attempt == 2
    assert await again.outcomes() == [Outcome.ABANDONED, Outcome.SUCCEEDED]


async def test_a_dead_servers_generation_runs_elsewhere_once_its_lease_is_over(start_shared: StartShared) -> None:
    here = start_shared("here", lease=1.1)
    running = (await here.enqueue())[0]
    assert await here.store.attempts.claim("here/dead", 1.1) is not None

    there = start_shared("there", lease=1.1)
    await there.start()

    assert (await there.until(running)).status is Status.SUCCEEDED
    assert await there.outcomes() == [Outcome.ABANDONED, Outcome.SUCCEEDED]


async def test_a_cancel_through_another_server_stops_the_device(start_shared: StartShared) -> None:
    here, there = start_shared("here", lease=1.1), start_shared("there")
    await here.start()
    running = await occupied(here)

    await there.service.cancel("", running.id)

    await eventually(lambda: here.engine.cancels == [(running.id, 1)])
    (next_one,) = await there.enqueue()
    assert (await there.until(next_one)).status is Status.SUCCEEDED


async def test_who_waits_is_told_of_what_another_server_did(start_shared: StartShared) -> None:
    here, there = start_shared("here", executors=0), start_shared("there")
    await asyncio.gather(here.start(), there.start())
    (generation,) = await here.enqueue(origin=Origin.SYNC)

    async with asyncio.timeout(60):
        (finished,) = await here.service.wait("", [generation.id])

    assert finished.status is Status.SUCCEEDED


async def test_an_idempotency_key_is_known_to_every_server(start_shared: StartShared) -> None:
    here, there = start_shared("here", executors=0), start_shared("there", executors=0)
    await asyncio.gather(here.start(), there.start())
    first = await here.service.submit("", SMALL, Origin.SYNC, "key")

    again = await there.service.submit("", SMALL, Origin.SYNC, "key")
    with pytest.raises(ConflictError):
        await there.service.submit("", {**SMALL, "seed": 8}, Origin.SYNC, "key")
    assert [each.id for each in again] == [each.id for each in first]

    # its client has come from there to here, and both notice that a connection broke
    ids = [each.id for each in first]
    await here.service._cancel_unstarted("", ids[0])
    assert (await here.read(first[0])).status is Status.QUEUED
    waiting = asyncio.create_task(here.service.wait("", ids))
    there.service.hang_up("", ids)
    async with asyncio.timeout(60):
        assert (await waiting)[0].status is Status.CANCELLED


async def test_the_limits_of_the_queue_are_those_of_all_servers(start_shared: StartShared) -> None:
    limits = {"executors": 0, "max_queued_per_key": 3}
    here, there = start_shared("here", **limits), start_shared("there", **limits)

    async def submit(inside: Inside, tenant: str) -> int:
        try:
            await inside.service.submit(tenant, SMALL, Origin.QUEUE)
        except QueueFullError:
            return 0
        return 1

    accepted = await asyncio.gather(*(submit(inside, "1") for _ in range(6) for inside in (here, there)))
    assert sum(accepted) == 3
    assert await submit(there, "2") == 1


async def test_what_starts_elsewhere_counts_no_more_as_unstarted(start_shared: StartShared) -> None:
    limit = 60_000
    here = start_shared("here", executors=0, max_unstarted_bytes_per_hour=limit)
    there = start_shared("there")
    await asyncio.gather(here.start(), there.start())

    for _ in range(8):
        (made,) = await here.enqueue(prompt="x" * 9000)
        async with asyncio.timeout(60):
            await here.service.wait("", [made.id])


async def test_a_server_that_stops_while_it_tidies_keeps_no_connection(
    start_shared: StartShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_tidying = asyncio.Event()

    async def tidy_for_ever(_: Retention) -> None:
        is_tidying.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)

    monkeypatch.setattr(Retention, "_sweep", tidy_for_ever)
    here = start_shared("here")
    await here.dispatcher.start()
    async with asyncio.timeout(60):
        await is_tidying.wait()
    pool = here.store.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() >= 1

    await here.dispatcher.stop()
    # its threads have ended, so that nothing could return a connection later
    here.store._session.close()

    assert pool.checkedout() == 0


def test_the_servers_of_a_data_directory_have_one_name_that_no_other_has(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "here") as name,
        locked(tmp_path / "there") as other,
        pytest.raises(DataDirInUseError),
        locked(tmp_path / "here"),
    ):
        pass
    with locked(tmp_path / "here") as again:
        pass

    assert again == name != other
    assert len(name) == 32


def test_servers_that_start_at_once_make_one_schema(postgres_url: str) -> None:
    problems: list[Exception] = []
    together = threading.Barrier(4)

    def open_() -> None:
        together.wait()
        try:
            open_database(postgres_url).dispose()
        except Exception as error:  # noqa: BLE001 - asserted below
            problems.append(error)

    threads = [threading.Thread(target=open_) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    engine = open_database(postgres_url)
    with engine.connect() as tx:
        assert compare_metadata(MigrationContext.configure(tx, opts={"compare_type": True}), metadata) == []
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(postgres_url: str) -> None:
    engine = open_database(postgres_url)
    with engine.begin() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()

    with pytest.raises(DatabaseUnusableError, match="newer version of Paddock: its schema is 9999"):
        open_database(postgres_url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "postgresql://me:secret@/paddock?host=/nowhere",
            r"://me:\*\*\*@.* cannot be used: connection",
        ),
        ("postgresql://host:port/paddock", "database_url is not the URL of a database"),
    ],
)
def test_a_database_that_is_not_there_is_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(DatabaseUnusableError, match=sentence) as refused:
        open_database(url)

    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(DatabaseUnusableError, match=r"pip install 'paddock\[postgres\]'"):
        open_database("postgresql://host/paddock")
