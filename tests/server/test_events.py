"""Fan-out: everybody of the same tenant hears everything, and nobody holds up anybody."""

import asyncio

from server.events import BACKLOG, Broker, Event, Live
from server.generations import Generation, Origin, Status

GENERATION = Generation(id="g", model="wan", status=Status.SUCCEEDED, origin=Origin.QUEUE, enqueued_at=0)


async def test_only_the_same_tenant_hears() -> None:
    broker = Broker()
    with broker.subscribe("") as mine, broker.subscribe("other") as other:
        broker.publish(Event(GENERATION))
        broker.close()
        assert [event async for event in mine] == []
        assert [event async for event in other] == []


async def test_events_come_in_order() -> None:
    broker = Broker()
    with broker.subscribe("") as subscription:
        for progress in (0.1, 0.2):
            broker.publish(Event(GENERATION, Live(progress)))
        broker.publish(Event(GENERATION))
        heard = []
        async for event in subscription:
            heard.append(event.live and event.live.progress)
            if event.live is None:
                break
    assert heard == [0.1, 0.2, None]


async def test_who_is_behind_misses_progress_and_is_let_go_rather_than_miss_a_completion() -> None:
    broker = Broker()
    with broker.subscribe("") as slow:
        for _ in range(BACKLOG + 50):
            broker.publish(Event(GENERATION, Live(0.5)))
        broker.publish(Event(GENERATION))
        async with asyncio.timeout(60):
            assert [event async for event in slow] == []


async def test_a_closed_broker_ends_those_still_to_come() -> None:
    broker = Broker()
    broker.close()
    with broker.subscribe("") as late:
        async with asyncio.timeout(60):
            assert [event async for event in late] == []
