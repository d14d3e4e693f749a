"""Submit, wait, hang up, follow: the contract's rules that are not about HTTP."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import (
    ConflictError,
    GenerationNotFoundError,
    InvalidParamsError,
    ModelNotFoundError,
    QueueFullError,
    UnavailableError,
)
from server.core.events import Event
from server.core.generation import Origin, Status
from server.service.requests import echo
from server.service.requests.echo import _size
from tests.server.conftest import Inside, build, eventually
from tests.support.server_process import SMALL


async def test_several_generations_differ_by_their_seeds(inside: Inside) -> None:
    given = await inside.enqueue(3, seed=100)
    drawn = await inside.enqueue(3)
    last = await inside.enqueue(2, seed=2**53 - 1)

    assert [generation.parameters["seed"] for generation in given] == [100, 101, 102]
    assert [generation.parameters["seed"] for generation in last] == [2**53 - 1, 0]
    seeds = [generation.params.seed for generation in drawn if generation.params]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    assert seeds[0] != 100


async def test_bad_parameters_fail_at_once_on_the_queue_and_raise_on_the_sync_route(inside: Inside) -> None:
    (failed,) = await inside.enqueue(height=721)
    assert failed.status is Status.FAILED
    assert failed.error_message == "height must be an integer between 1 and 720"
    assert (await inside.read(failed)).completed_at is not None

    with pytest.raises(InvalidParamsError, match="height must be an integer between 1 and 720"):
        await inside.enqueue(origin=Origin.SYNC, height=721)
    assert inside.engine.runs == []


async def test_one_bad_generation_of_several_records_none_on_the_sync_route(inside: Inside) -> None:
    with pytest.raises(InvalidParamsError, match="seed"):
        await inside.enqueue(2, origin=Origin.SYNC, seed=2**53)

    assert await inside.store.attempt_log() == []
    assert await inside.store.history.queued() == 0


async def test_unknown_models_and_ids_are_named(inside: Inside) -> None:
    with pytest.raises(ModelNotFoundError, match="Model not found: nope"):
        await inside.enqueue(model="nope")
    with pytest.raises(InvalidParamsError, match="model must be given"):
        await inside.enqueue(model=None)
    with pytest.raises(GenerationNotFoundError):
        await inside.service.get("", "nope")
    with pytest.raises(GenerationNotFoundError):
        await inside.service.cancel("", "nope")


async def test_a_full_queue_refuses_with_a_time_to_come_back(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (running,) = await inside.enqueue()
    await inside.until(running, Status.PROCESSING)
    for _ in range(25):
        await inside.enqueue(2)

    with pytest.raises(QueueFullError, match="50 generations are waiting") as caught:
        await inside.enqueue()
    assert int(caught.value.headers["Retry-After"]) > 0


async def test_failures_are_bounded_also_while_they_are_recorded(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", max_failed_per_hour=3)
    body = {**SMALL, "height": 721}
    for _ in range(5):
        # a retry records nothing
        await inside.service.submit("", body, Origin.QUEUE, "a-key")

    ended = await asyncio.gather(*(inside.enqueue(height=721) for _ in range(10)), return_exceptions=True)

    assert [type(each) for each in ended if isinstance(each, BaseException)] == [QueueFullError] * 8
    inside.store.close()


async def test_what_is_cancelled_unstarted_is_bounded(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", max_unstarted_bytes_per_hour=60_000)

    for _ in range(2):
        (generation,) = await inside.enqueue(prompt="x" * 9000)
        await inside.service.cancel("", generation.id)
    with pytest.raises(QueueFullError, match="60000 bytes in all that have not started") as caught:
        await inside.enqueue(prompt="x" * 9000)
    assert 3500 < int(caught.value.headers["Retry-After"]) <= 3600
    inside.store.close()


async def test_what_starts_does_not_count_as_unstarted(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", max_unstarted_bytes_per_hour=60_000)
    await inside.dispatcher.start()

    for _ in range(4):
        (generation,) = await inside.enqueue(prompt="x" * 9000)
        await inside.until(generation, Status.SUCCEEDED)

    assert inside.service._recorder._limits._waiting == {}
    await inside.dispatcher.stop()
    inside.store.close()


async def test_what_is_echoed_is_measured_once_and_only_as_far_as_needed(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[Any] = []
    monkeypatch.setattr(echo, "_size", lambda value, most: sizes.append(value) or _size(value, most))
    given = await inside.enqueue(3, seed=7, fancy=[1.25] * 4000)

    assert [each.parameters["seed"] for each in given] == [7, 8, 9]
    assert "fancy" not in given[0].parameters
    assert [value for value in sizes if value[0] == "fancy"] == [["fancy", [1.25] * 4000]]
    assert echo.MAX_ECHO_BYTES < _size([1.25] * 4000, echo.MAX_ECHO_BYTES) < 2 * echo.MAX_ECHO_BYTES


async def test_a_retried_request_is_not_made_twice(inside: Inside) -> None:
    body = {**SMALL, "num_generations": 2}

    first = await inside.service.submit("", body, Origin.QUEUE, "a-key")
    again = await inside.service.submit("", dict(reversed(body.items())), Origin.QUEUE, "a-key")
    other = await inside.service.submit("", body, Origin.QUEUE, "another-key")

    assert [each.id for each in again] == [each.id for each in first]
    assert not {each.id for each in other} & {each.id for each in first}
    with pytest.raises(ConflictError, match="Idempotency-Key was another request's"):
        await inside.service.submit("", {**body, "prompt": "another"}, Origin.QUEUE, "a-key")
    with pytest.raises(ConflictError):
        await inside.service.submit("", body, Origin.SYNC, "a-key")


async def test_waiting_returns_all_in_their_order(inside: Inside) -> None:
    submitted = await inside.enqueue(3, origin=Origin.SYNC)

    finished = await inside.service.wait("", [generation.id for generation in submitted])

    assert [generation.id for generation in finished] == [generation.id for generation in submitted]
    assert {generation.status for generation in finished} == {Status.SUCCEEDED}


async def test_hanging_up_cancels_only_what_has_not_started(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    started, waiting = await inside.enqueue(2, origin=Origin.SYNC)
    await inside.until(started, Status.PROCESSING)

    inside.service.hang_up("", [started.id, waiting.id])

    await inside.until(waiting, Status.CANCELLED)
    assert (await inside.read(started)).status is Status.PROCESSING
    assert inside.engine.cancels == []


async def test_hanging_up_leaves_what_somebody_else_waits_for(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    started, queued = await inside.enqueue(2, origin=Origin.SYNC)
    await inside.until(started, Status.PROCESSING)
    other = asyncio.create_task(inside.service.wait("", [queued.id]))
    await asyncio.sleep(0)

    inside.service.hang_up("", [queued.id])
    await asyncio.sleep(0.1)
    assert (await inside.read(queued)).status is Status.QUEUED

    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    inside.service.hang_up("", [queued.id])
    await inside.until(queued, Status.CANCELLED)


async def test_who_may_return_has_some_seconds(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.notifications.waiting.RETURN_SECONDS", 0.2)
    inside.engine.script.append(inside.engine.until_cancelled)
    started, *queued = await inside.enqueue(3, origin=Origin.SYNC)
    await inside.until(started, Status.PROCESSING)

    inside.service.hang_up("", [each.id for each in queued], may_return=True)
    returned = asyncio.create_task(inside.service.wait("", [queued[0].id]))
    await inside.until(queued[1], Status.CANCELLED)
    assert (await inside.read(queued[0])).status is Status.QUEUED
    await inside.service.cancel("", started.id)
    assert [generation.status for generation in await returned] == [Status.SUCCEEDED]


async def test_each_break_gives_the_whole_time_to_return(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.notifications.waiting.RETURN_SECONDS", 0.5)
    inside.engine.script.append(inside.engine.until_cancelled)
    started, queued = await inside.enqueue(2, origin=Origin.SYNC)
    await inside.until(started, Status.PROCESSING)

    for _ in range(3):
        inside.service.hang_up("", [queued.id], may_return=True)
        await asyncio.sleep(0.3)
    assert (await inside.read(queued)).status is Status.QUEUED
    await inside.until(queued, Status.CANCELLED)
    assert not inside.service._waiting._leaving


async def test_a_client_whose_request_has_not_started_is_told_to_send_it_again(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    started, queued = await inside.enqueue(2, origin=Origin.SYNC)
    waits = [asyncio.create_task(inside.service.wait("", [each.id])) for each in (started, queued)]
    await inside.until(started, Status.PROCESSING)

    inside.service.begin_closing()

    with pytest.raises(UnavailableError, match=f"was started: it goes on .* {started.id}"):
        await waits[0]
    with pytest.raises(UnavailableError, match=r"before this request was started\. Send it again") as told:
        await waits[1]
    assert "Retry-After" in told.value.headers


async def test_stopping_lets_go_of_those_who_wait_and_refuses_more(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue(origin=Origin.SYNC)
    waiting = asyncio.create_task(inside.service.wait("", [generation.id]))
    await inside.until(generation, Status.PROCESSING)

    inside.service.begin_closing()

    with pytest.raises(UnavailableError, match="stopping"):
        await waiting
    with pytest.raises(UnavailableError, match="stopping"):
        await inside.enqueue()


async def test_a_clock_that_is_set_back_replays_nothing_old(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    (old,) = await inside.enqueue()
    await inside.until(old)
    now = time.time()
    monkeypatch.setattr("server.service.notifications.event_stream.time.time", lambda: now - 3600)
    monkeypatch.setattr("time.time", lambda: now - 3600)
    inside.engine.script.append(inside.engine.until_cancelled)
    (running,) = await inside.enqueue()
    await inside.until(running, Status.PROCESSING)

    async def first_end() -> str:
        async with aclosing(inside.service.events("")) as events:
            async for event in events:
                if isinstance(event, Event) and event.live is None:
                    return event.generation.id
        return ""

    listening = asyncio.create_task(first_end())
    await eventually(lambda: inside.service._broker.subscribers == 1)
    # a replay would have come by now
    await asyncio.sleep(0.1)
    await inside.service.cancel("", running.id)
    async with asyncio.timeout(60):
        assert await listening == running.id


async def test_a_new_subscriber_first_hears_of_the_last_completions_once(inside: Inside) -> None:
    (done,) = await inside.enqueue()
    await inside.until(done)
    inside.engine.script.append(inside.engine.until_cancelled)
    (running,) = await inside.enqueue()
    await eventually(lambda: len(inside.engine.runs) == 2)

    heard = []
    async with asyncio.timeout(60), aclosing(inside.service.events("")) as events:
        async for event in events:
            if isinstance(event, Event) and event.live is None:
                heard.append((event.generation.id, event.generation.status))
            if len(heard) == 1:
                await inside.service.cancel("", running.id)
            if len(heard) == 2:
                break

    assert heard == [(done.id, Status.SUCCEEDED), (running.id, Status.CANCELLED)]
