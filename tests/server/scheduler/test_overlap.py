"""A file is finished while the device makes the next video, whose prompt is encoded already."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.core.circuit_breaker import Health, Tolerance
from server.core.errors import RecordsUnavailableError
from server.core.generation import Generation, Outcome, Status
from server.engine.interface import GenerationFailedError, WorkerStuckError
from server.engine.protocol import Done, Run
from server.scheduler.device import Device
from server.scheduler.prefetch import PromptPrefetcher
from server.storage.files.videos import video_key
from tests.server.conftest import Inside, build, eventually
from tests.server.fakes import FakeEngine
from tests.server.scheduler.test_dispatcher import busy, completions, files

OTHER_MODEL = "wan-ai-wan2-1-t2v-1-3b-diffusers"


async def rendered(inside: Inside, **changes: Any) -> Generation:
    """A generation whose file waits to be finished."""
    inside.engine.script.append(inside.engine.render)
    (generation,) = await inside.enqueue(**changes)
    await eventually(lambda: video_key(generation.id, 1) in inside.engine.files)
    await eventually(lambda: inside.dispatcher.executors[0].device.running is None)
    return generation


async def both(inside: Inside) -> tuple[Generation, Generation]:
    """One generation whose file waits to be finished, and one that runs meanwhile."""
    return await rendered(inside), await busy(inside)


async def test_the_device_goes_on_before_the_file_is_finished(inside: Inside) -> None:
    first, second = await both(inside)

    assert (await inside.read(first)).status is (await inside.read(second)).status is Status.PROCESSING
    assert inside.dispatcher.live(await inside.read(first)) is not None
    assert completions(inside) == []
    inside.engine.end_files(inside.engine.finish)
    assert (await inside.until(first)).status is Status.SUCCEEDED
    assert files(inside) == {video_key(first.id, 1)}
    assert (await inside.read(second)).status is Status.PROCESSING
    await inside.service.cancel("", second.id)


async def test_one_file_at_most_waits_to_be_finished(inside: Inside) -> None:
    inside.engine.script += [inside.engine.render, inside.engine.render]
    first, second, third = await inside.enqueue(3)
    await eventually(lambda: len(inside.engine.files) == 2)

    assert [job.generation_id for job in inside.engine.runs] == [first.id, second.id]
    inside.engine.end_files(inside.engine.finish)
    for generation in (first, second, third):
        assert (await inside.until(generation)).status is Status.SUCCEEDED


async def test_a_file_that_fails_fails_its_generation_only(inside: Inside) -> None:
    def fail(_job: Run) -> Done:
        raise GenerationFailedError("No space left.")

    first, second = await both(inside)
    inside.engine.end_files(fail)

    assert (await inside.until(first)).error_message == "No space left."
    assert (await inside.read(second)).status is Status.PROCESSING
    await inside.service.cancel("", second.id)


async def test_what_is_cancelled_before_its_file_is_finished_leaves_none(inside: Inside) -> None:
    first, second = await both(inside)

    await inside.service.cancel("", first.id)
    inside.engine.end_files(inside.engine.finish)

    await eventually(lambda: not inside.dispatcher.executors[0].device.finishing)
    assert (await inside.read(first)).status is Status.CANCELLED
    assert files(inside) == set()
    # which was not asked to stop
    assert (await inside.read(second)).status is Status.PROCESSING
    await inside.service.cancel("", second.id)


async def test_a_worker_that_dies_of_a_run_is_not_held_against_the_file_beside_it(inside: Inside) -> None:
    fake = inside.engine
    (executor,) = inside.dispatcher.executors

    def by_prompt(job: Run) -> object:
        return fake.until_killed(job) if job.params.prompt == "poison" else fake.render(job)

    fake.script += [by_prompt] * 5
    first, poison = [*await inside.enqueue(), *await inside.enqueue(prompt="poison")]
    await eventually(lambda: executor.device.finishing and executor.device.running)
    for attempt in (1, 2):
        tried = poison.id, attempt
        await eventually(lambda tried=tried: tried in [(job.generation_id, job.attempt) for job in fake.runs])
        fake.kill()
    assert (await inside.until(poison)).status is Status.FAILED
    # it may only now be tried once more
    await eventually(lambda: not all(word.done() for word in fake.files.values()))
    fake.end_files(fake.finish)
    assert (await inside.until(first)).status is Status.SUCCEEDED

    assert executor.device.circuit.health is Health.HEALTHY
    log = [each["outcome"] for each in await inside.store.attempt_log() if each["generation_id"] == first.id]
    # if it were blamed, it would have failed at the second death
    assert set(log) == {Outcome.RELEASED, Outcome.SUCCEEDED}


@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_file_that_is_at_fault_itself_has_two_tries(inside: Inside, is_alone: bool) -> None:
    def hang(_job: Run) -> Done:
        raise WorkerStuckError("it made no progress for 120 seconds while finishing the file and was killed")

    inside.engine.script += [inside.engine.render]
    (first,) = await inside.enqueue()
    await eventually(lambda: len(inside.engine.files) == 1)
    beside = None if is_alone else await busy(inside)
    inside.engine.script.append(inside.engine.render)
    inside.engine.end_files(inside.engine.die if is_alone else hang)
    if beside is not None:
        await inside.until(first, Status.QUEUED)
        await inside.service.cancel("", beside.id)
    await eventually(lambda: len(inside.engine.files) == 2)
    inside.engine.end_files(inside.engine.die if is_alone else hang)

    failed = await inside.until(first)
    assert failed.status is Status.FAILED
    assert "died 2 times in a row" in str(failed.error_message)


async def test_a_file_whole_at_the_workers_death_is_adopted(inside: Inside) -> None:
    first, second = await both(inside)

    inside.engine.end_files(inside.engine.finish_and_die)

    assert (await inside.until(first)).status is Status.SUCCEEDED
    await inside.service.cancel("", second.id)


async def test_a_clean_stop_waits_for_the_file(inside: Inside) -> None:
    first = await rendered(inside)
    inside.engine.script.append(inside.engine.until_suspended)
    (second,) = await inside.enqueue()
    await eventually(lambda: len(inside.engine.runs) == 2)

    async def finish_late() -> None:
        await eventually(lambda: inside.dispatcher.executors[0].device.running is None)
        inside.engine.end_files(inside.engine.finish)

    await asyncio.gather(inside.dispatcher.suspend(60), finish_late())

    assert (await inside.read(first)).status is Status.SUCCEEDED
    assert (await inside.read(second)).status is Status.QUEUED


async def test_a_stop_gives_back_what_has_no_file_yet(inside: Inside) -> None:
    first, second = await both(inside)

    await inside.dispatcher.suspend(0.01)
    await inside.dispatcher.stop()

    assert (await inside.read(first)).status is (await inside.read(second)).status is Status.QUEUED
    assert await inside.outcomes() == [Outcome.RELEASED] * 2


async def test_an_end_that_cannot_be_written_down_is_written_later_while_the_device_works(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.attempt.BACKOFF_SECONDS", 0.05)
    first, second = await both(inside)
    succeed, refused = inside.store.attempts.succeed, 0

    async def late(*arguments: Any, **facts: Any) -> Generation:
        nonlocal refused
        refused += 1
        if refused <= 3:
            raise RecordsUnavailableError("no records", "later")
        return await succeed(*arguments, **facts)

    monkeypatch.setattr(inside.store.attempts, "succeed", late)
    inside.engine.end_files(inside.engine.finish)

    assert (await inside.until(first)).status is Status.SUCCEEDED
    assert refused == 4
    assert (await inside.read(second)).status is Status.PROCESSING
    await inside.service.cancel("", second.id)


async def test_an_idle_worker_is_not_ended_amid_a_file(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", idle_unload=0.05)
    await inside.dispatcher.start()
    first = await rendered(inside)

    await asyncio.sleep(0.2)
    assert not inside.engine.is_closed
    inside.engine.end_files(inside.engine.finish)
    assert (await inside.until(first)).status is Status.SUCCEEDED
    await eventually(lambda: inside.engine.is_closed)
    await inside.dispatcher.stop()
    inside.store.close()


# prefetching prompts


async def looked_at_the_queue(inside: Inside) -> None:
    """Wait until the first look at the queue is over, which found nothing."""
    await eventually(lambda: not inside.dispatcher.executors[0]._prefetcher._is_settled)


@pytest.mark.parametrize(
    ("changes", "prepared"),
    [
        ({"negative_prompt": "no"}, [["what follows", "no"]]),
        # without guidance the negative prompt is not used
        ({"negative_prompt": "no", "guidance_scale": 1.0}, [["what follows"]]),
        ({"model": OTHER_MODEL}, []),
    ],
)
async def test_the_next_prompts_are_encoded_if_they_are_for_the_model_that_runs(
    inside: Inside, changes: dict[str, Any], prepared: list[list[str]]
) -> None:
    first = await busy(inside)
    (executor,) = inside.dispatcher.executors
    await looked_at_the_queue(inside)
    await inside.enqueue(prompt="what follows", **changes)

    inside.engine.tell(0.6)
    await eventually(lambda: executor._prefetcher._is_settled)
    await asyncio.sleep(0.1)

    assert inside.engine.prepared == prepared
    await inside.service.cancel("", first.id)


async def test_what_is_for_the_model_with_other_weights_is_not_prepared(inside: Inside) -> None:
    first = await busy(inside)
    await inside.enqueue(prompt="what follows")
    running = await inside.read(first)
    assert running.params is not None
    # another engine than the device's own, whose prefetcher may look at the queue meanwhile
    engine = FakeEngine(inside.folder)
    prefetcher = PromptPrefetcher(inside.store.attempts, Device(engine, Tolerance()), lambda _: None)

    await prefetcher.look(replace(running, params=replace(running.params, run_fast=True)))
    assert engine.prepared == []
    await prefetcher.look(running)
    assert [prompts[0] for prompts in engine.prepared] == ["what follows"]
    await inside.service.cancel("", first.id)


async def test_what_comes_late_is_looked_for_again_and_found_once(inside: Inside) -> None:
    first = await busy(inside)
    await looked_at_the_queue(inside)
    inside.engine.tell(0.5)

    await inside.enqueue(prompt="late")
    inside.engine.tell(0.6)
    await eventually(lambda: inside.engine.prepared)
    await inside.enqueue(prompt="later still")
    inside.engine.tell(0.7)

    assert [prompts[0] for prompts in inside.engine.prepared] == ["late"]
    await inside.service.cancel("", first.id)


async def test_records_that_cannot_be_read_do_not_hinder_what_runs(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_holding: str | None) -> Generation | None:
        raise RecordsUnavailableError("no records", "later")

    monkeypatch.setattr(inside.store.attempts, "next", refuse)
    first, second = await inside.enqueue(2)

    assert (await inside.until(first)).status is (await inside.until(second)).status is Status.SUCCEEDED
    assert inside.engine.prepared == []
