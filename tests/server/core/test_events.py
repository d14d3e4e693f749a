"""The event broker: each subscriber gets all events of its tenant, and slow subscribers do not delay others."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace

from server.core.events import BACKLOG, FEW, Broker, Event, Live, Subscription
from server.core.generation import Generation, Origin, Status

GENERATION = Generation(id="g", model="wan", status=Status.SUCCEEDED, origin=Origin.QUEUE, enqueued_at=0)


async def test_events_go_only_to_subscribers_of_the_same_tenant() -> None:
    broker = Broker()
    with broker.subscribe("") as mine, broker.subscribe("other") as other:
        broker.publish(Event(GENERATION))
        broker.close()
        assert [event async for event in mine] == []
        assert [event async for event in other] == []


async def test_events_arrive_in_order() -> None:
    broker = Broker()
    with broker.subscribe("") as subscription:
        for progress in (0.1, 0.2):
            broker.publish(Event(GENERATION, Live(progress)))
        broker.publish(Event(GENERATION))
        events_seen = []
        async for event in subscription:
            events_seen.append(event.live and event.live.progress)
            if event.live is None:
                break
    assert events_seen == [0.1, 0.2, None]


async def test_a_slow_subscriber_misses_progress_and_is_disconnected_rather_than_miss_a_completion() -> None:
    broker = Broker()
    with broker.subscribe("") as slow:
        for _ in range(BACKLOG + 50):
            broker.publish(Event(GENERATION, Live(0.5)))
        broker.publish(Event(GENERATION))
        async with asyncio.timeout(60):
            assert [event async for event in slow] == []


async def test_a_closed_broker_ends_new_subscriptions_at_once() -> None:
    broker = Broker()
    broker.close()
    with broker.subscribe("") as late:
        async with asyncio.timeout(60):
            assert [event async for event in late] == []


# many subscribers


async def received(subscription: Subscription, count: int) -> list[Event]:
    """The next `count` events of a subscription."""
    events_seen = []
    async with asyncio.timeout(60):
        async for event in subscription:
            events_seen.append(event)
            if len(events_seen) == count:
                break
    return events_seen


async def test_many_subscribers_get_all_events_in_order_without_blocking_other_tasks() -> None:
    broker, turns = Broker(), 0

    async def other_task() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    events = [Event(replace(GENERATION, id=name)) for name in "abc"]
    with ExitStack() as stack:
        many = [stack.enter_context(broker.subscribe("")) for _ in range(10 * FEW)]
        busy = asyncio.create_task(other_task())
        for event in events:
            broker.publish(event)
        assert [await received(each, 3) for each in many] == [events] * len(many)
        busy.cancel()

    assert turns >= 3 * 10


async def test_many_subscribers_get_only_the_newest_progress() -> None:
    broker = Broker()
    first, second, over = (Event(GENERATION, Live(0.1)), Event(GENERATION, Live(0.2)), Event(GENERATION))
    other = Event(replace(GENERATION, id="other"), Live(0.5))
    with ExitStack() as stack:
        many = [stack.enter_context(broker.subscribe("")) for _ in range(2 * FEW)]
        for event in (first, other, second, over):
            broker.publish(event)
        events_seen = [await received(each, 3) for each in many]

    assert events_seen == [[other, second, over]] * len(many)


async def test_closing_ends_many_subscriptions_at_once() -> None:
    broker = Broker()
    with ExitStack() as stack:
        many = [stack.enter_context(broker.subscribe("")) for _ in range(2 * FEW)]
        broker.publish(Event(GENERATION))
        broker.close()
        async with asyncio.timeout(60):
            assert [[event async for event in each] for each in many] == [[]] * len(many)


async def test_the_streams_of_one_tenant_delay_no_other_tenant_and_nobody_who_waits() -> None:
    broker = Broker()
    with ExitStack() as stack:
        for _ in range(50 * FEW):
            stack.enter_context(broker.subscribe("many"))
        waits = stack.enter_context(broker.subscribe("many", ends_only=True))
        other = stack.enter_context(broker.subscribe("other"))
        ends = [replace(GENERATION, id=str(number), tenant="many") for number in range(100)]
        for end in ends:
            broker.publish(Event(end, Live(0.5)))
            broker.publish(Event(end))
        broker.publish(Event(replace(GENERATION, tenant="other")))

        # without a moment for the deliveries
        assert [event.generation.id for event in await received(waits, 100)] == [end.id for end in ends]
        assert [event.generation.tenant for event in await received(other, 1)] == ["other"]
        assert broker.subscribers == 50 * FEW + 2
        broker.close()
    assert broker.subscribers == 0


async def test_streams_that_fall_behind_together_are_ended_and_hold_nothing() -> None:
    broker = Broker()
    long = replace(GENERATION, parameters={"prompt": "x" * 10_000})
    with ExitStack() as stack:
        streams = [stack.enter_context(broker.subscribe("")) for _ in range(2 * FEW)]
        for _ in range(BACKLOG + 1):
            broker.publish(Event(long))
        async with asyncio.timeout(60):
            assert [[event async for event in stream] for stream in streams] == [[]] * len(streams)
        assert all(stream.has_overflowed for stream in streams)
        broker.publish(Event(long))
        await asyncio.sleep(0.05)
    assert not broker._deliveries
    assert not broker._streams


async def test_events_do_not_hold_what_requests_contained() -> None:
    broker = Broker()
    with broker.subscribe("") as subscription:
        broker.publish(Event(replace(GENERATION, parameters={"prompt": "x"})))
        (event,) = await received(subscription, 1)

    assert event.generation == replace(GENERATION, parameters={})
