"""What one server shows of another one's work: each event once, in its order, whatever becomes of the connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from server.core.errors import RecordsUnavailableError
from server.core.events import Event
from server.core.generation import Generation, Status
from server.service.notifications.event_stream import Position
from server.storage.db.records import Filters
from server.storage.db.sharing import listener
from tests.server.conftest import Inside, StartShared, eventually

_ALL = Filters()


class Heard:
    """What a stream of events has told so far."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.positions: list[int] = []

    def ends(self) -> list[tuple[str, str]]:
        """The generations whose end was told, with their statuses."""
        return [(each.generation.id, each.generation.status) for each in self.events if each.live is None]

    def progress(self, of: Generation) -> list[float]:
        """The progress that was told of a generation."""
        return [each.live.progress for each in self.events if each.live and each.generation.id == of.id]


@asynccontextmanager
async def stream(inside: Inside, last_event_id: str | None = None) -> AsyncIterator[Heard]:
    """Follow the events on a server."""
    heard = Heard()

    async def follow() -> None:
        async with aclosing(inside.service.events("", last_event_id)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Position):
                    heard.positions.append(event.number)
                else:
                    heard.events.append(event)

    following = asyncio.create_task(follow())
    await eventually(lambda: heard.positions)
    yield heard
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def listens(inside: Inside) -> None:
    """Wait until a server has begun to hear of the others."""
    with inside.store.engine.connect() as tx:
        counted = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        async with asyncio.timeout(60):
            while not tx.scalar(counted):
                tx.rollback()
                await asyncio.sleep(0.02)


def end_listening(inside: Inside) -> None:
    """Cut the connections on which servers listen."""
    with inside.store.engine.begin() as tx:
        tx.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"))


@pytest.fixture
async def pair(start_shared: StartShared) -> tuple[Inside, Inside]:
    """A server without devices, and one with a device, which runs everything."""
    here, there = start_shared("here", executors=0, lease=3600), start_shared("there", lease=3600)
    await here.start()
    await there.start()
    return here, there


async def test_a_stream_tells_once_what_another_server_ran(pair: tuple[Inside, Inside]) -> None:
    here, there = pair
    async with stream(here) as heard, stream(there) as own:
        generations = [*await here.enqueue(2), *await there.enqueue(2), *await here.enqueue(1, height=0)]
        await eventually(lambda: len(heard.ends()) == len(own.ends()) == 5)
        for each in generations[:4]:
            await here.until(each, Status.SUCCEEDED)

        assert heard.ends() == own.ends()
        assert {id_ for id_, _ in heard.ends()} == {each.id for each in generations}
        numbers = [each.generation.event_number for each in heard.events if each.live is None]
        assert numbers == [1, 2, 3, 4, 5]
    async with stream(here, "3") as late:
        await eventually(lambda: len(late.ends()) == 2)
        assert late.ends() == heard.ends()[3:]


async def test_progress_elsewhere_is_told_and_in_rows_until_the_end(
    pair: tuple[Inside, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.service.progress_recorder.EVERY_SECONDS", 0.02)
    here, there = pair
    there.engine.script.append(there.engine.until_cancelled)
    async with stream(here) as heard:
        (running,) = await here.enqueue()
        await eventually(lambda: 0.5 in heard.progress(running))
        there.engine.tell(0.75)
        await eventually(lambda: 0.75 in heard.progress(running))
        placed = await here.service.get("", running.id)
        live = here.service.live(placed)
        assert live is not None
        assert (live.progress, live.stage, live.step, live.steps) == (0.75, "denoising", 1, 2)
        # the folders are not shared: nobody here could read the preview
        assert live.preview is None
        listing = [row async for rows in here.service.rows(await here.library.page(_ALL, 1, 10)) for row in rows]
        assert here.service.live(listing[0]) == live

        await here.service.cancel("", running.id)
        await eventually(lambda: heard.ends() == [(running.id, Status.CANCELLED)])
        there.engine.tell(0.9)
        (last,) = await here.enqueue()
        await eventually(lambda: (last.id, Status.SUCCEEDED) in heard.ends())

    assert heard.progress(running)[-1] == 0.75
    assert here.service.live(await here.service.get("", running.id)) is None
    with here.store.engine.connect() as tx:
        assert tx.scalar(text("SELECT count(*) FROM attempts WHERE live IS NOT NULL")) == 0


async def test_a_cancel_elsewhere_stops_the_device_long_before_its_lease_is_renewed(
    pair: tuple[Inside, Inside],
) -> None:
    here, there = pair
    there.engine.script.append(there.engine.until_cancelled)
    (running,) = await here.enqueue()
    await eventually(lambda: there.engine.runs)

    await here.service.cancel("", running.id)

    await eventually(lambda: there.engine.cancels == [(running.id, 1)])


async def test_what_is_queued_here_wakes_a_device_elsewhere_at_once(
    start_shared: StartShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = start_shared("here", executors=0), start_shared("there")
    monkeypatch.setattr("server.scheduler.maintenance._WATCH_SECONDS", 1e6)
    await here.start()
    await there.start()
    await listens(there)
    # the first connection makes it look at the queue, too
    assert (await there.until(*await there.enqueue())).status is Status.SUCCEEDED

    assert (await here.until(*await here.enqueue())).status is Status.SUCCEEDED


async def test_a_lost_connection_loses_no_event_and_repeats_none(
    pair: tuple[Inside, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    async with stream(here) as heard:
        (first,) = await there.enqueue()
        await eventually(lambda: heard.ends() == [(first.id, Status.SUCCEEDED)])
        monkeypatch.setattr(listener, "RETRY_SECONDS", 0.2)
        made = [first]
        for _ in range(5):
            end_listening(here)
            made += await there.enqueue(2)
            for each in made:
                await there.until(each)
        waiting = asyncio.create_task(here.service.wait("", [made[-1].id]))
        await eventually(lambda: len(heard.ends()) == len(made))
        async with asyncio.timeout(60):
            assert (await waiting)[0].status is Status.SUCCEEDED

    assert [id_ for id_, _ in heard.ends()] == [each.id for each in made]


async def test_more_changes_than_may_wait_are_read_from_the_records(
    pair: tuple[Inside, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    monkeypatch.setattr(listener, "MAX_PENDING", 3)
    async with stream(here) as heard:
        made = [each for _ in range(10) for each in await there.enqueue(4, height=0)]
        await eventually(lambda: len(heard.ends()) == 40)

    assert [id_ for id_, _ in heard.ends()] == [each.id for each in made]


async def test_a_connection_without_notifications_counts_as_lost(
    pair: tuple[Inside, Inside], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair
    # as behind a pooler whose connections are another one for each transaction
    monkeypatch.setattr(listener, "CHANNEL", "another")
    monkeypatch.setattr(listener, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.2)
    end_listening(here)

    async with stream(here) as heard:
        await eventually(lambda: "no notifications arrive" in caplog.text)
        (made,) = await there.enqueue()
        await eventually(lambda: heard.ends() == [(made.id, Status.SUCCEEDED)])


async def test_without_a_connection_to_listen_on_the_records_are_read_all_the_same(
    pair: tuple[Inside, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.1)

    async def refuse(**_: Any) -> psycopg.AsyncConnection[Any]:
        raise psycopg.OperationalError("too many connections")

    await listens(here)
    monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse)
    end_listening(here)
    async with stream(here) as heard:
        (made,) = await there.enqueue()
        await eventually(lambda: heard.ends() == [(made.id, Status.SUCCEEDED)])


async def test_rows_that_cannot_be_read_are_read_later(
    pair: tuple[Inside, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    monkeypatch.setattr("server.service.other_servers._BACKOFF_SECONDS", 0.02)
    read, failures = here.store.history.changed, 0

    async def fail_twice(ids: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures <= 2:
            raise RecordsUnavailableError("The database is away.", "Bring it back.")
        return await read(ids)

    monkeypatch.setattr(here.store.history, "changed", fail_twice)
    async with stream(here) as heard:
        (made,) = await there.enqueue()
        await eventually(lambda: heard.ends() == [(made.id, Status.SUCCEEDED)])
    assert failures > 2
