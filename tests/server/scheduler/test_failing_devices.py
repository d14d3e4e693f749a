"""A device that fails repeatedly is quarantined, the others go on, and it recovers by itself."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.api.routes.health import readiness
from server.core.circuit_breaker import Health
from server.core.errors import UnavailableError
from server.core.generation import Status
from server.engine.interface import (
    DeviceUnavailableError,
    GenerationFailedError,
    WorkerDiedError,
    WorkerStartError,
)
from server.engine.protocol import Done, Run
from server.scheduler.device import Device
from server.scheduler.interface import Deployment
from tests.server.conftest import Inside, build, eventually
from tests.server.fakes import load_failure
from tests.support.server_process import MODEL


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.core.circuit_breaker._LONGEST_BACKOFF", 0.01)


@pytest.fixture
async def start(tmp_path: Any) -> AsyncIterator[Any]:
    """Starts the parts of servers: `await start(executors=2, setting=value)`."""
    started: list[Inside] = []

    async def start(**changes: Any) -> Inside:
        inside = build(tmp_path / f"data{len(started)}", **changes)
        started.append(inside)
        await inside.dispatcher.start()
        return inside

    yield start
    for inside in started:
        await inside.dispatcher.stop()
        inside.store.close()


def device_of(inside: Inside) -> Device:
    return inside.dispatcher.executors[0].device


def later(inside: Inside, seconds: float) -> None:
    """Let a device believe that so much time has passed."""
    circuit = device_of(inside).circuit
    clock = circuit._clock
    circuit._clock = lambda: clock() + seconds
    inside.dispatcher.wake()


async def fail_all(inside: Inside, count: int) -> None:
    """Generations that each end the worker as often as is allowed."""
    inside.engine.script += [inside.engine.die] * 2 * count
    for generation in await inside.enqueue(count):
        assert (await inside.until(generation)).status is Status.FAILED


async def test_an_unhealthy_device_takes_nothing_and_then_one_that_heals_it(start: Any) -> None:
    inside = await start(unhealthy_after=2, unhealthy_cooldown=60)
    inside.engine.script += [inside.engine.die] * 3
    first, second, third = await inside.enqueue(3)

    await eventually(lambda: device_of(inside).circuit.health is Health.UNHEALTHY)
    assert (await inside.read(first)).status is Status.FAILED
    # the failure is counted before the record is written
    await inside.until(second, Status.QUEUED)
    with pytest.raises(UnavailableError) as refused:
        await readiness(inside.service)
    assert str(refused.value).startswith(
        "The device fake:0 takes no generations: it was killed by SIGKILL. It is tried again in "
    )
    later(inside, 50)
    await asyncio.sleep(0.05)
    assert (await inside.read(second)).status is Status.QUEUED

    later(inside, 10)
    assert [(await inside.until(each)).status for each in (second, third)] == [Status.SUCCEEDED] * 2
    device = (await readiness(inside.service))["devices"][0]
    assert (device["health"], device["failures"], device["retry_in"], device["error"]) == ("healthy", 3, None, None)


async def test_a_trial_that_fails_leaves_it_alone_for_longer(start: Any) -> None:
    inside = await start(unhealthy_after=2, unhealthy_cooldown=60)
    circuit = device_of(inside).circuit
    inside.engine.script += [inside.engine.die] * 4
    _, second, last = await inside.enqueue(3)
    await eventually(lambda: len(inside.engine.runs) == 3)
    await inside.until(second, Status.QUEUED)

    later(inside, 60)
    assert (await inside.until(second)).status is Status.FAILED
    assert 60 < circuit.wait <= 120
    assert (await inside.read(last)).status is Status.QUEUED
    later(inside, 120)
    assert (await inside.until(last)).status is Status.SUCCEEDED


async def test_on_trial_it_is_ready_since_only_a_generation_can_heal_it(start: Any) -> None:
    inside = await start(unhealthy_after=1, unhealthy_cooldown=60)
    inside.engine.script.append(inside.engine.die)
    (generation,) = await inside.enqueue()
    await eventually(lambda: device_of(inside).circuit.health is Health.UNHEALTHY)
    await inside.service.cancel("", generation.id)
    later(inside, 60)

    device = (await readiness(inside.service))["devices"][0]
    assert (device["health"], device["error"]) == ("half_open", "it was killed by SIGKILL")


async def test_the_other_devices_take_the_queue_meanwhile(start: Any) -> None:
    inside = await start(executors=2, unhealthy_after=1, unhealthy_cooldown=60)
    broken, sound = inside.engines
    broken.script += [broken.die] * 10
    generations = await inside.enqueue(4)

    assert [(await inside.until(each)).status for each in generations] == [Status.SUCCEEDED] * 4
    assert len(broken.runs) <= 1
    assert len(sound.runs) == 4
    inside.dispatcher.executors[0].device.circuit.failed("a", "b")
    devices = (await readiness(inside.service))["devices"]
    assert [device["health"] for device in devices] == ["unhealthy", "healthy"]

    inside.dispatcher.deactivate(inside.service.entry(MODEL))
    await eventually(lambda: inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE)
    loads = len(broken.loads)
    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: inside.dispatcher.deployment(MODEL) is Deployment.ACTIVE)
    assert len(broken.loads) == loads, "a device that is left alone is not the one to load on"


async def test_one_poisoned_generation_after_another_good_one_never_closes_the_door(start: Any) -> None:
    inside = await start(unhealthy_after=2, unhealthy_cooldown=60)
    for _ in range(3):
        await fail_all(inside, 1)
        (well,) = await inside.enqueue()
        assert (await inside.until(well)).status is Status.SUCCEEDED

    assert device_of(inside).circuit.health is Health.HEALTHY
    assert device_of(inside).circuit.failures == 6


async def test_what_is_not_the_devices_fault_is_not_counted(start: Any) -> None:
    def fail(job: Run) -> Done:
        raise GenerationFailedError("Not numbers.")

    inside = await start(unhealthy_after=1)
    inside.engine.script += [fail, fail]
    inside.engine.load_errors.append(load_failure("No weights."))
    for generation in await inside.enqueue(3):
        assert (await inside.until(generation)).status is Status.FAILED

    assert device_of(inside).circuit.failures == 0


async def test_a_cancelled_run_that_had_to_be_killed_is_not_counted(start: Any) -> None:
    inside = await start(unhealthy_after=1)

    async def killed(job: Run) -> Done:
        await inside.engine._cancelled.wait()
        raise WorkerDiedError("it was killed by SIGKILL")

    inside.engine.script.append(killed)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    await inside.service.cancel("", generation.id)
    (well,) = await inside.enqueue()

    assert (await inside.until(well)).status is Status.SUCCEEDED
    assert device_of(inside).circuit.failures == 0


async def test_loads_that_end_the_worker_count_for_their_model_once(start: Any) -> None:
    inside = await start(unhealthy_after=2, unhealthy_cooldown=60)
    circuit, entry = device_of(inside).circuit, inside.service.entry(MODEL)
    for count in (1, 2):
        inside.engine.load_errors.append(WorkerDiedError("it exited with status 1"))
        inside.dispatcher.activate(entry)
        await eventually(lambda count=count: circuit.failures == count)
        await eventually(lambda: inside.dispatcher.deployment(MODEL) is Deployment.ERROR)

    assert circuit.health is Health.HEALTHY


async def test_a_device_left_alone_can_be_cancelled_unloaded_and_stopped(start: Any) -> None:
    inside = await start(unhealthy_after=1, unhealthy_cooldown=3600)
    inside.engine.script.append(inside.engine.die)
    (waiting,) = await inside.enqueue()
    await eventually(lambda: device_of(inside).circuit.health is Health.UNHEALTHY)

    await inside.service.cancel("", waiting.id)
    assert (await inside.read(waiting)).status is Status.CANCELLED
    inside.dispatcher.activate(inside.service.entry(MODEL))
    await eventually(lambda: inside.dispatcher.deployment(MODEL) is Deployment.ACTIVE)
    inside.dispatcher.deactivate(inside.service.entry(MODEL))
    await eventually(lambda: inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE)
    async with asyncio.timeout(60):
        await inside.dispatcher.stop()
    assert inside.engine.is_closed


@pytest.mark.parametrize(
    "error",
    [
        WorkerStartError("No worker could be started: Too many open files."),
        DeviceUnavailableError("Other programs hold the memory of cuda:0: 2.0 GiB of 24.0 GiB is free."),
    ],
    ids=type,
)
async def test_a_device_that_can_make_nothing_now_is_no_generations_fault(
    start: Any, error: DeviceUnavailableError
) -> None:
    inside = await start(unhealthy_cooldown=60.0)
    why = str(error)
    inside.engine.load_errors += [error] * 4
    generations = await inside.enqueue(3)
    device = device_of(inside)

    for pause in (1.0, 2.0, 4.0, 8.0):
        await eventually(lambda pause=pause: pause - 1.0 < device.circuit.wait <= pause)
        assert device.status().health is Health.UNHEALTHY
        assert device.status().error == why
        with pytest.raises(
            UnavailableError, match=rf"^The device fake:0 takes no generations: {re.escape(why)} It is "
        ):
            await readiness(inside.service)
        for generation in generations:
            await inside.until(generation, Status.QUEUED)
        later(inside, pause)

    ended = [await inside.until(generation) for generation in generations]
    assert {generation.status for generation in ended} == {Status.SUCCEEDED}
    assert {generation.worker_deaths for generation in ended} == {0}
    assert device.status().health is Health.HEALTHY


async def test_what_can_never_fit_fails_at_once_between_others_that_wait(start: Any) -> None:
    inside = await start()
    inside.engine.load_errors += [DeviceUnavailableError("Other programs hold the memory."), load_failure("Too large.")]
    first, second = await inside.enqueue(2)
    device = device_of(inside)
    await eventually(lambda: device.circuit.failures == 1)
    later(inside, 1.0)

    failed = await inside.until(first)
    assert (failed.status, failed.error_message, failed.worker_deaths) == (Status.FAILED, "Too large.", 0)
    assert (await inside.until(second)).status is Status.SUCCEEDED
    assert device.circuit.failures == 1


async def test_a_run_whose_memory_others_take_is_made_again(start: Any) -> None:
    def fail(job: Run) -> Done:
        raise DeviceUnavailableError("Other programs hold the memory.")

    inside = await start()
    inside.engine.script += [fail] * 3
    (generation,) = await inside.enqueue()
    device = device_of(inside)
    for count in (1, 2, 3):
        await eventually(lambda count=count: device.circuit.failures == count)
        later(inside, 4.0)

    made = await inside.until(generation)
    assert (made.status, made.worker_deaths) == (Status.SUCCEEDED, 0)


async def test_one_that_is_cancelled_while_the_device_is_busy_is_not_made(start: Any) -> None:
    inside = await start()
    inside.engine.loading.clear()
    inside.engine.load_errors.append(DeviceUnavailableError("Other programs hold the memory."))
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.loads)
    await inside.service.cancel("", generation.id)
    inside.engine.loading.set()

    await eventually(lambda: device_of(inside).running is None)
    assert (await inside.read(generation)).status is Status.CANCELLED


async def test_a_load_request_meets_the_same_block(start: Any) -> None:
    inside = await start()
    inside.engine.load_errors += [DeviceUnavailableError("Other programs hold the memory.")]
    inside.service.activate(inside.service.entry(MODEL))
    device = device_of(inside)

    await eventually(lambda: device.status().health is Health.UNHEALTHY)
    await eventually(lambda: inside.dispatcher.deployment(MODEL) is Deployment.ERROR)
    assert device.status().error == "Other programs hold the memory."
    assert device.circuit.wait <= 1.0
    later(inside, 1.0)
    assert (await inside.until((await inside.enqueue())[0])).status is Status.SUCCEEDED
