"""The events of one subscriber: in the order of their numbers, none lost, none twice, no progress after the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from server.core.events import BACKLOG, Broker, Event, Live
from server.core.generation import Generation, Status
from server.service.notifications.event_stream import EventStream, Position
from server.storage.db.records import QueueLimits
from tests.contract.store.examples import new
from tests.support.records import StandaloneStore as Store


class Place:
    """A store and a broker, with streams of the tenant ""."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'paddock.db'}")
        self.broker = Broker()

    async def fail(self, count: int = 1) -> list[Generation]:
        """Record failures, without publishing them."""
        failed = [new(status=Status.FAILED, completed_at=1.0) for _ in range(count)]
        return list(await self.store.submissions.insert(failed, QueueLimits(10)))

    def stream(self, last_event_id: str | None = None, replay: float = 0.0) -> AsyncIterator[Event | Position]:
        return EventStream(self.store.history, self.broker, "", replay).events(last_event_id)

    async def until_subscribed(self) -> None:
        while not self.broker.subscribers:  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def told(stream: AsyncIterator[Event | Position], count: int) -> list[int | float | None]:
    """The next `count` things that a stream tells: numbers of completions and positions, progress below 1."""
    heard: list[int | float | None] = []
    async with asyncio.timeout(60):
        while len(heard) < count:
            event = await anext(stream)
            if isinstance(event, Position):
                heard.append(event.number)
            else:
                heard.append(event.generation.event_number if event.live is None else event.live.progress)
    return heard


async def test_a_new_stream_tells_where_it_begins(place: Place) -> None:
    await place.fail(3)
    async with aclosing(place.stream()) as stream:
        assert await told(stream, 1) == [3]
    async with aclosing(place.stream(replay=1e10)) as stream:
        assert await told(stream, 4) == [0, 1, 2, 3]


async def test_a_stream_is_resumed_after_any_number(place: Place) -> None:
    await place.fail(230)
    for number in (0, 1, 99, 100, 229):
        async with aclosing(place.stream(str(number))) as stream:
            assert await told(stream, 231 - number) == [*range(number, 231)]


@pytest.mark.parametrize("last_event_id", ["4", "", "-1", "abc", "1.0", "\u0661", "9" * 400])
async def test_an_unknown_id_begins_a_new_stream(place: Place, last_event_id: str) -> None:
    await place.fail(3)
    async with aclosing(place.stream(last_event_id)) as stream:
        assert await told(stream, 1) == [3]


async def test_events_that_overtake_each_other_are_told_in_order_and_once(place: Place) -> None:
    async with aclosing(place.stream()) as stream:
        assert await told(stream, 1) == [0]
        first, second, third = await place.fail(3)
        for late in (second, first, third, third):
            place.broker.publish(Event(late))
        (fourth,) = await place.fail()
        place.broker.publish(Event(fourth))
        assert await told(stream, 4) == [1, 2, 3, 4]


async def test_a_subscriber_that_falls_behind_reads_the_records(place: Place) -> None:
    async with aclosing(place.stream()) as stream:
        assert await told(stream, 1) == [0]
        failed = await place.fail(BACKLOG + 10)
        for each in failed:
            place.broker.publish(Event(each))
        assert await told(stream, len(failed)) == [*range(1, len(failed) + 1)]
        (last,) = await place.fail()
        place.broker.publish(Event(last))
        assert await told(stream, 1) == [len(failed) + 1]


async def test_a_number_whose_generation_is_removed_is_skipped(place: Place) -> None:
    async with aclosing(place.stream()) as stream:
        assert await told(stream, 1) == [0]
        gone, also, last = await place.fail(3)
        for each in (gone, also):
            await place.store.expiry.remove([each.id], "")
        place.broker.publish(Event(also))
        place.broker.publish(Event(last))
        assert await told(stream, 1) == [3]


async def test_progress_is_not_told_after_the_end(place: Place) -> None:
    over, running = (await place.fail())[0], new()
    async with aclosing(place.stream("0")) as stream:
        assert await told(stream, 2) == [0, 1]
        next_told = asyncio.create_task(told(stream, 1))
        await place.until_subscribed()
        place.broker.publish(Event(over, Live(0.9)))
        place.broker.publish(Event(running, Live(0.2)))
        assert await next_told == [0.2]


async def test_a_closed_broker_ends_the_stream(place: Place) -> None:
    async with aclosing(place.stream()) as stream:
        assert await told(stream, 1) == [0]
        place.broker.close()
        async with asyncio.timeout(60):
            assert [event async for event in stream] == []


async def test_recorded_events_tell_which_is_the_last_that_is_there(place: Place) -> None:
    await place.fail(3)
    async with aclosing(place.stream("0")) as stream:
        assert isinstance(await anext(stream), Position)
        events = [await anext(stream) for _ in range(3)]

    assert [isinstance(event, Event) and event.is_last for event in events] == [False, False, True]
