"""Devices that are removed while the server runs: what they held, and what they were asked to do, is not lost."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation, Status
from tests.server.conftest import Inside, build, listen
from tests.server.fakes import FakeEngine
from tests.server.scheduler.test_dispatcher import busy, with_another_model

Start = Callable[..., Awaitable[Inside]]


@pytest.fixture
async def start(tmp_path: Any) -> AsyncIterator[Start]:
    """Starts the parts of a server: `await start(executors=2, setting=value)`."""
    started: list[tuple[Inside, asyncio.Task[None]]] = []

    async def start(**changes: Any) -> Inside:
        inside = build(tmp_path / "data", models_dir=with_another_model(tmp_path / "models"), **changes)
        started.append((inside, asyncio.create_task(listen(inside))))
        await inside.dispatcher.start()
        return inside

    yield start
    for inside, listening in started:
        await inside.dispatcher.stop()
        listening.cancel()
        inside.store.close()


async def turns() -> None:
    """Let the loop go on as far as it can without waiting for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def name_of(engine: FakeEngine) -> str:
    return engine.state.device


def names(inside: Inside) -> list[str]:
    return [device.name for device in inside.dispatcher.devices()]


class HeldWrites:
    """From `hold` to `release` the thread that writes the records stands still amid a transaction."""

    def __init__(self, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_on = False
        self._released = threading.Event()
        self.reached = threading.Event()
        monkeypatch.setattr(inside.store._session, "now", self._now)

    def _now(self) -> float:
        if self._is_on and threading.current_thread() is not threading.main_thread():
            self.reached.set()
            self._released.wait(30)
        return time.time()

    def hold(self) -> None:
        self._is_on = True

    def release(self) -> None:
        self._is_on = False
        self._released.set()


# claims


async def claiming(inside: Inside, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]) -> asyncio.Event:
    """Have the only device claim, which lasts until the event is set, and then ends as `end` says."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    claim = inside.store.attempts.claim

    async def slow(*arguments: Any) -> Generation | None:
        begun.set()
        await go_on.wait()
        end()
        return await claim(*arguments)

    monkeypatch.setattr(inside.store.attempts, "claim", slow)
    inside.dispatcher.wake()
    await begun.wait()
    return go_on


async def test_a_device_that_claims_while_the_records_fail_can_be_removed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = 0

    def fail() -> None:
        nonlocal claims
        claims += 1
        raise RecordsUnavailableError("The database is locked.", "Unlock it.")

    monkeypatch.setattr("server.scheduler.executor.BACKOFF_SECONDS", 0.01)
    inside = await start()
    go_on = await claiming(inside, monkeypatch, fail)

    removing = asyncio.create_task(inside.dispatcher.remove("fake:0"))
    await turns()
    go_on.set()
    async with asyncio.timeout(5):
        await removing

    assert names(inside) == []
    assert inside.engine.is_closed
    assert claims == 1


@pytest.mark.parametrize("is_stopped_twice", [False, True])
async def test_what_a_device_claims_while_it_is_removed_is_given_back(
    start: Start, monkeypatch: pytest.MonkeyPatch, is_stopped_twice: bool
) -> None:
    inside = await start()
    go_on = await claiming(inside, monkeypatch, lambda: None)
    (generation,) = await inside.enqueue()

    ending = [asyncio.create_task(inside.dispatcher.remove("fake:0"))]
    await turns()
    if is_stopped_twice:
        # as when the server stops meanwhile
        ending[0].cancel()
        ending.append(asyncio.create_task(inside.dispatcher.stop()))
        await turns()
    go_on.set()
    await asyncio.gather(*ending, return_exceptions=True)

    record = await inside.read(generation)
    assert (record.status, record.attempt) == (Status.QUEUED, 1)


async def test_a_server_that_stops_waits_for_a_device_whose_removal_was_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = await start()
    go_on = await claiming(inside, monkeypatch, lambda: None)
    (generation,) = await inside.enqueue()
    removing = asyncio.create_task(inside.dispatcher.remove("fake:0"))
    await turns()
    removing.cancel()
    await asyncio.wait({removing})

    stopping = asyncio.create_task(inside.dispatcher.stop())
    await turns()
    assert not stopping.done()
    go_on.set()
    await stopping

    assert (await inside.read(generation)).status is Status.QUEUED
    assert inside.engine.is_closed


async def test_a_suspension_gets_over_a_device_that_is_removed_meanwhile(start: Start) -> None:
    inside = await start()
    running = await busy(inside)
    is_asked, go_on = asyncio.Event(), asyncio.Event()

    async def suspend_slowly(*_: object) -> None:
        is_asked.set()
        await go_on.wait()

    inside.engine.suspend = suspend_slowly  # type: ignore[method-assign,assignment]
    suspending = asyncio.create_task(inside.dispatcher.suspend(30))
    await is_asked.wait()
    await inside.dispatcher.remove("fake:0")
    go_on.set()
    async with asyncio.timeout(5):
        await suspending

    assert (await inside.read(running)).status is Status.QUEUED
