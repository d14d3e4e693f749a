"""Fan-out: everybody of the same tenant hears everything, and nobody holds up anybody."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace

from server.core.events import BACKLOG, FEW, Broker, Event, Live, Subscription
from server.core.generation import Generation, Origin, Status

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


# many


async def told(subscription: Subscription, count: int) -> list[Event]:
    """The next events that somebody hears."""
    heard = []
    async with asyncio.timeout(60):
        async for event in subscription:
            heard.append(event)
            if len(heard) == count:
                break
    return heard


async def test_many_hear_all_in_order_and_others_have_their_turn_in_between() -> None:
    broker, turns = Broker(), 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    events = [Event(replace(GENERATION, id=name)) for name in "abc"]
    with ExitStack() as stack:
        many = [stack.enter_context(broker.subscribe("")) for _ in range(10 * FEW)]
        busy = asyncio.create_task(somebody_else())
        for event in events:
            broker.publish(event)
        assert [await told(each, 3) for each in many] == [events] * len(many)
        busy.cancel()

    assert turns >= 3 * 10


async def test_of_progress_many_hear_the_newest() -> None:
    broker = Broker()
    first, second, over = (Event(GENERATION, Live(0.1)), Event(GENERATION, Live(0.2)), Event(GENERATION))
    other = Event(replace(GENERATION, id="other"), Live(0.5))
    with ExitStack() as stack:
        many = [stack.enter_context(broker.subscribe("")) for _ in range(2 * FEW)]
        for event in (first, other, second, over):
            broker.publish(event)
        heard = [await told(each, 3) for each in many]

    assert heard == [[other, second, over]] * len(many)


async def test_the_end_comes_to_many_at_once() -> None:
    broker = Broker()
    with ExitStack() as stack:
        many = [stack.enter_context(broker.subscribe("")) for _ in range(2 * FEW)]
        broker.publish(Event(GENERATION))
        broker.close()
        async with asyncio.timeout(60):
            assert [[event async for event in each] for each in many] == [[]] * len(many)
