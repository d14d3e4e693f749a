"""Claim, run, record: in order and once, whatever dies or is cancelled in between."""

import asyncio
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from pipelines.core.progress import Stage
from pipelines.core.request import VideoParams
from pipelines.models.catalogue import BUILT_IN
from server.core.errors import RecordsUnavailableError
from server.core.generation import ACTIVE, Generation, Origin, Outcome, Status
from server.engine.interface import GenerationFailedError, WorkerDiedError
from server.engine.protocol import Done, Run
from server.scheduler.interface import Deployment
from server.storage.db.records import Filters, QueueLimits
from server.storage.db.schema import generations
from server.storage.files.videos import video_key
from tests.contract.store.examples import new
from tests.server.conftest import Inside, build, eventually, listen
from tests.server.fakes import load_failure
from tests.support.models.headers import write_header

MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"


def files(inside: Inside) -> set[str]:
    return {path.name for path in inside.folders.videos.folder.iterdir()}


def completions(inside: Inside) -> list[tuple[str, Status]]:
    return [(event.generation.id, event.generation.status) for event in inside.events if event.live is None]


async def busy(inside: Inside) -> Generation:
    """A generation whose run lasts until it is cancelled."""
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: any(job.generation_id == generation.id for job in inside.engine.runs))
    return generation


async def test_generations_run_in_order_and_each_ends_with_its_file(inside: Inside) -> None:
    generations = [*await inside.enqueue(3), *await inside.enqueue(1)]

    finished = [await inside.until(generation) for generation in generations]

    assert [job.generation_id for job in inside.engine.runs] == [generation.id for generation in generations]
    assert {generation.status for generation in finished} == {Status.SUCCEEDED}
    assert files(inside) == {video_key(generation.id, 1) for generation in generations}
    assert finished[0].fingerprint == {"engine": "fake"}
    assert await inside.outcomes() == [Outcome.SUCCEEDED] * 4


async def test_each_completion_is_told_once_after_its_progress(inside: Inside) -> None:
    (generation,) = await inside.enqueue()
    await inside.until(generation)
    await asyncio.sleep(0.05)

    assert completions(inside) == [(generation.id, Status.SUCCEEDED)]
    assert inside.events[0].live is not None
    assert inside.events[0].live.stage is None
    assert [event.live.progress for event in inside.events if event.live] == [0.0, 0.5]


async def test_what_a_video_depends_on_is_recorded_as_it_ended(inside: Inside) -> None:
    def next_plan(job: Run) -> Done:
        return inside.engine.finish(job).model_copy(update={"fingerprint": {"plan": "leaner"}})

    inside.engine.script.append(next_plan)
    (generation,) = await inside.enqueue()

    assert (await inside.until(generation)).fingerprint == {"plan": "leaner"}


async def test_a_failed_run_fails_its_generation_only(inside: Inside) -> None:
    def fail(job: Run) -> Done:
        raise GenerationFailedError("Not numbers.")

    inside.engine.script.append(fail)
    bad, good = await inside.enqueue(2)

    assert (await inside.until(bad)).error_message == "Not numbers."
    assert (await inside.until(good)).status is Status.SUCCEEDED


async def test_a_fault_of_our_own_fails_its_generation_only(inside: Inside) -> None:
    def break_down(job: Run) -> Done:
        raise ZeroDivisionError

    inside.engine.script.append(break_down)
    bad, good = await inside.enqueue(2)

    failed = await inside.until(bad)
    assert failed.status is Status.FAILED
    assert failed.error_message is not None
    assert "log says more" in failed.error_message
    assert (await inside.until(good)).status is Status.SUCCEEDED


async def test_a_model_that_cannot_be_loaded_fails_with_the_reason(inside: Inside) -> None:
    inside.engine.load_errors.append(load_failure("No weights of Wan on this machine."))
    (generation,) = await inside.enqueue()

    assert (await inside.until(generation)).error_message == "No weights of Wan on this machine."
    assert inside.dispatcher.deployment(MODEL) is Deployment.ERROR
    (another,) = await inside.enqueue()
    assert (await inside.until(another)).status is Status.SUCCEEDED
    assert inside.dispatcher.deployment(MODEL) is Deployment.ACTIVE


async def test_the_time_left_follows_from_the_work_so_far(inside: Inside) -> None:
    generation = await busy(inside)

    live = inside.dispatcher.live(await inside.read(generation))

    # the fake reports two seconds for one half
    assert live is not None
    assert (live.progress, live.eta) == (0.5, 2.0)
    await inside.service.cancel("", generation.id)


async def test_waiting_generations_have_estimates(inside: Inside) -> None:
    async def eta(generation: Generation) -> float | None:
        live = inside.service.live(await inside.service.get("", generation.id))
        return None if live is None else live.eta

    (first,) = await inside.enqueue()
    await inside.until(first)
    running = await busy(inside)
    waiting = await inside.enqueue(3)

    # the fake takes two seconds for each generation, and has two left for the one it runs
    assert await eta(running) == 2.0
    assert [await eta(generation) for generation in waiting] == [pytest.approx(at, abs=0.5) for at in (4, 6, 8)]
    await inside.service.cancel("", running.id)


async def test_in_a_list_each_is_told_what_it_is_told_alone(inside: Inside) -> None:
    (first,) = await inside.enqueue()
    await inside.until(first)
    running = await busy(inside)
    kinds: tuple[dict[str, int], ...] = ({}, {"num_inference_steps": 8}, {"seed": 1}, {"height": 128})
    for changes in kinds:
        await inside.enqueue(**changes)

    listing = await inside.service.newest(Filters(statuses=ACTIVE))
    listed = [placed async for batch in inside.service.rows(listing) for placed in batch]
    together = inside.service.lives(listed)

    alone = [inside.service.live(placed) for placed in listed]
    assert len(together) == 5
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert one.eta == pytest.approx(other.eta, abs=0.5)
    # four times the steps, and four times the pixels
    assert len({round(live.eta) for live in together if live is not None and live.eta is not None}) == 5
    await inside.service.cancel("", running.id)


async def test_before_the_first_video_there_is_no_estimate(inside: Inside) -> None:
    running = await busy(inside)
    (waiting,) = await inside.enqueue()

    assert inside.service.live(await inside.service.get("", waiting.id)) is None
    await inside.service.cancel("", running.id)


async def test_two_devices_halve_the_wait(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", executors=2)
    await inside.dispatcher.start()
    (first,) = await inside.enqueue()
    await inside.until(first)
    for engine in inside.engines:
        engine.script.append(engine.until_cancelled)
    running = await inside.enqueue(2)
    await eventually(lambda: sum(len(engine.runs) for engine in inside.engines) == 3)
    waiting = await inside.enqueue(4)

    placed = [await inside.service.get("", generation.id) for generation in waiting]
    etas = [live.eta for each in placed if (live := inside.service.live(each)) is not None]

    assert etas == [pytest.approx(at, abs=0.5) for at in (4, 4, 6, 6)]
    for generation in running:
        await inside.service.cancel("", generation.id)
    await inside.dispatcher.stop()
    inside.store.close()


# checkpoints


async def suspended(inside: Inside) -> Generation:
    """A generation that a clean stop has returned to the queue, with a checkpoint at 0.4."""
    inside.engine.script.append(inside.engine.until_suspended)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    await inside.dispatcher.suspend(10)
    return await inside.read(generation)


def checkpoints(inside: Inside) -> set[str]:
    return {path.name for path in inside.folders.checkpoints.folder.iterdir()}


async def test_a_clean_stop_saves_what_runs_and_the_next_start_goes_on(inside: Inside) -> None:
    generation = await suspended(inside)
    assert (generation.status, generation.progress) == (Status.QUEUED, 0.4)
    assert checkpoints(inside) == {f"{generation.id}.1.ckpt"}
    assert await inside.outcomes() == [Outcome.RELEASED]
    (late,) = await inside.enqueue()
    await asyncio.sleep(0.05)
    assert (await inside.read(late)).attempt == 0
    await inside.dispatcher.stop()

    again = build(inside.folder)
    again.engine.loading.clear()
    await again.dispatcher.start()
    await eventually(lambda: again.engine.loads)
    live = again.dispatcher.live(await again.read(generation))
    assert live is not None
    assert live.progress == 0.4
    again.engine.loading.set()
    await again.until(generation)
    await again.until(late)
    assert {(job.checkpoint, job.resume_from) for job in again.engine.runs} == {
        (f"{generation.id}.2.ckpt", f"{generation.id}.1.ckpt"),
        (f"{late.id}.1.ckpt", None),
    }
    assert checkpoints(again) == set()
    await again.dispatcher.stop()
    again.store.close()


async def test_a_stop_does_not_wait_for_a_load_and_the_generation_keeps_what_was_saved(inside: Inside) -> None:
    generation = await suspended(inside)
    await inside.dispatcher.stop()
    again = build(inside.folder)
    again.engine.loading.clear()
    await again.dispatcher.start()
    await eventually(lambda: again.engine.loads)

    async with asyncio.timeout(60):
        await again.dispatcher.suspend(1000)
        await again.dispatcher.stop()

    kept = await again.read(generation)
    assert (kept.status, kept.progress, kept.attempt) == (Status.QUEUED, 0.4, 2)
    assert checkpoints(again) == {f"{generation.id}.1.ckpt"}
    again.store.close()


async def test_a_stop_between_load_and_run_begins_no_run(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    renew = inside.store.attempts.renew
    stops: list[asyncio.Task[None]] = []

    async def stop_meanwhile(*args: Any) -> None:
        await renew(*args)
        stops.append(asyncio.create_task(inside.dispatcher.suspend(10)))
        await eventually(lambda: inside.dispatcher.executors[0].device.is_stopping)

    monkeypatch.setattr(inside.store.attempts, "renew", stop_meanwhile)
    (generation,) = await inside.enqueue()
    await eventually(lambda: stops)
    await asyncio.gather(*stops)

    assert inside.engine.runs == []
    assert (await inside.read(generation)).status is Status.QUEUED


async def test_a_worker_that_dies_keeps_what_it_had_saved(inside: Inside) -> None:
    def save_and_die(job: Run) -> Done:
        inside.engine.save(job, 0.3)
        return inside.engine.die(job)

    inside.engine.script += [save_and_die, inside.engine.until_cancelled]
    (generation,) = await inside.enqueue()
    await eventually(lambda: len(inside.engine.runs) == 2)

    assert (await inside.read(generation)).progress == 0.3
    assert checkpoints(inside) == {f"{generation.id}.1.ckpt"}
    await inside.service.cancel("", generation.id)
    await eventually(lambda: not checkpoints(inside))


async def test_an_attempt_goes_on_from_the_newest_checkpoint_and_removes_it_when_it_has_its_own(
    inside: Inside,
) -> None:
    def save_and_die(job: Run) -> Done:
        inside.engine.save(job, 0.3)
        return inside.engine.die(job)

    inside.engine.script += [save_and_die, inside.engine.until_cancelled]
    (generation,) = await inside.enqueue()
    await eventually(lambda: len(inside.engine.runs) == 2)
    keys = [f"{generation.id}.{attempt}.ckpt" for attempt in (1, 2)]
    assert [(job.checkpoint, job.resume_from) for job in inside.engine.runs] == [(keys[0], None), (keys[1], keys[0])]
    assert checkpoints(inside) == {keys[0]}

    inside.engine.save(inside.engine.runs[-1], 0.6)
    await eventually(lambda: checkpoints(inside) == {keys[1]})

    # an attempt that counts no more writes once again, and overwrites nothing
    inside.engine.save(inside.engine.runs[0], 0.35)
    assert checkpoints(inside) == {*keys}
    await inside.service.cancel("", generation.id)
    await eventually(lambda: not checkpoints(inside))


async def test_a_checkpoint_of_the_version_before_is_gone_on_from(inside: Inside) -> None:
    generation = await suspended(inside)
    await inside.dispatcher.stop()
    folder = inside.folders.checkpoints.folder
    old = folder / f"{generation.id}.ckpt"
    (folder / f"{generation.id}.1.ckpt").rename(old)

    again = build(inside.folder)
    again.engine.script.append(again.engine.until_cancelled)
    await again.dispatcher.start()
    await eventually(lambda: again.engine.runs)
    assert again.engine.runs[0].resume_from == old.name
    again.engine.save(again.engine.runs[0], 0.6)
    await eventually(lambda: checkpoints(again) == {f"{generation.id}.2.ckpt"})
    await again.dispatcher.stop()
    again.store.close()


async def test_a_checkpoint_is_recorded_at_once_for_the_server_may_be_killed(inside: Inside) -> None:
    running = await busy(inside)

    inside.engine.save(inside.engine.runs[0], 0.3)
    inside.engine.tell(0.6)

    # long before the claim has to be renewed
    async with asyncio.timeout(inside.settings.lease / 6):
        while (now := await inside.read(running)).progress != 0.3:  # noqa: ASYNC110 - a record has no event
            await asyncio.sleep(0.005)
    assert now.status is Status.PROCESSING
    again = build(inside.folder)
    again.engine.loading.clear()
    await again.dispatcher.start()
    retried = await again.until(running, Status.PROCESSING)
    assert (retried.attempt, retried.server_deaths, retried.furthest) == (2, 1, 0.3)
    await again.dispatcher.stop()
    again.store.close()


async def test_warnings_are_recorded_while_a_generation_runs_and_stay(inside: Inside) -> None:
    running = await busy(inside)
    inside.engine.warn("the prompt is too long", "so is the other")
    async with asyncio.timeout(inside.settings.lease / 6):
        while not (now := await inside.read(running)).warnings:  # noqa: ASYNC110 - a record has no event
            await asyncio.sleep(0.005)

    assert now.warnings == ("the prompt is too long", "so is the other")
    assert now.status is Status.PROCESSING
    await inside.service.cancel("", running.id)
    assert (await inside.until(running, Status.CANCELLED)).warnings == now.warnings


@pytest.mark.parametrize("fails", [True, False])
async def test_warnings_of_a_generation_that_ends_at_once_are_recorded(inside: Inside, fails: bool) -> None:
    async def warned(job: Run) -> Done:
        inside.engine.warn("the prompt is too long")
        if fails:
            raise GenerationFailedError("it went wrong")
        return inside.engine.finish(job)

    inside.engine.script.append(warned)
    (generation,) = await inside.enqueue()

    ended = await inside.until(generation, Status.FAILED if fails else Status.SUCCEEDED)
    assert ended.warnings == ("the prompt is too long",)


@pytest.mark.parametrize(("deaths", "status"), [(1, Status.QUEUED), (9, Status.FAILED)])
async def test_what_a_lost_server_held_is_decided_while_this_one_runs(
    tmp_path: Path, deaths: int, status: Status
) -> None:
    inside = build(tmp_path / "data", lease=1.1)
    inside.engine.loading.clear()
    listening = asyncio.create_task(listen(inside))
    await inside.dispatcher.start()
    await busy_loading(inside)
    held = new(
        status=Status.PROCESSING, attempt=1, owner="lost/1", lease_until=time.time(), server_deaths=deaths, model=MODEL
    )
    await inside.store.submissions.insert([held], QueueLimits(10))

    decided = await inside.until(held, status)

    assert decided.server_deaths == deaths + 1
    if status is Status.FAILED:
        assert "died 10 times in a row" in str(decided.error_message)
        await eventually(lambda: (held.id, Status.FAILED) in completions(inside))
    listening.cancel()
    inside.engine.loading.set()
    await inside.dispatcher.stop()
    inside.store.close()


async def busy_loading(inside: Inside) -> None:
    """Have the device load, so that it takes nothing from the queue."""
    await inside.enqueue()
    await eventually(lambda: inside.engine.loads)


async def test_a_generation_that_waits_and_is_cancelled_leaves_no_checkpoint(inside: Inside) -> None:
    generation = await suspended(inside)

    await inside.service.cancel("", generation.id)

    assert checkpoints(inside) == set()


async def test_a_failed_generation_leaves_no_checkpoint(inside: Inside) -> None:
    def save_and_fail(job: Run) -> Done:
        inside.engine.save(job, 0.3)
        raise GenerationFailedError("Not numbers.")

    inside.engine.script.append(save_and_fail)
    (generation,) = await inside.enqueue()
    await inside.until(generation)

    await eventually(lambda: not checkpoints(inside))


async def test_a_start_clears_away_what_no_generation_goes_on_from(inside: Inside) -> None:
    generation = await suspended(inside)
    await inside.dispatcher.stop()
    for name in ("unknown.ckpt", "unknown.3.ckpt", f".{generation.id}.1.ckpt.part"):
        (inside.folders.checkpoints.folder / name).write_bytes(b"left")

    again = build(inside.folder)
    again.engine.loading.clear()
    await again.dispatcher.start()

    await eventually(lambda: checkpoints(again) == {f"{generation.id}.1.ckpt"})
    again.engine.loading.set()
    await again.until(generation)
    await again.dispatcher.stop()
    again.store.close()


async def test_what_an_encoder_began_after_its_worker_died_is_cleared_away(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", lease=1.1)
    await inside.dispatcher.start()
    running = await busy(inside)
    late, needed = (inside.folders.videos.folder / f".{id_}.1.mp4.part" for id_ in ("gone", running.id))
    needed.write_bytes(b"half")
    late.write_bytes(b"half")

    await eventually(lambda: not late.exists())

    assert needed.exists()
    await inside.service.cancel("", running.id)
    await inside.dispatcher.stop()
    inside.store.close()


# worker deaths


async def test_a_worker_death_gives_another_try_before_anything_newer(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.die)
    first, second = await inside.enqueue(2)

    assert (await inside.until(first)).status is Status.SUCCEEDED
    await inside.until(second)

    assert [(job.generation_id, job.attempt) for job in inside.engine.runs] == [
        (first.id, 1),
        (first.id, 2),
        (second.id, 1),
    ]
    assert await inside.outcomes() == [Outcome.WORKER_DIED, Outcome.SUCCEEDED, Outcome.SUCCEEDED]


async def test_a_poisoned_generation_fails_alone(inside: Inside) -> None:
    inside.engine.script += [inside.engine.die, inside.engine.die]
    poisoned, good = await inside.enqueue(2)

    failed = await inside.until(poisoned)

    assert failed.status is Status.FAILED
    assert failed.error_message is not None
    assert "died 2 times in a row" in failed.error_message
    assert (await inside.until(good)).status is Status.SUCCEEDED


async def test_a_death_while_loading_counts_too(inside: Inside) -> None:
    inside.engine.load_errors += [WorkerDiedError("it exited with status 1")] * 2
    (generation,) = await inside.enqueue()

    assert (await inside.until(generation)).status is Status.FAILED
    assert inside.engine.runs == []


async def test_a_file_finished_just_before_the_death_is_adopted(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.finish_and_die)
    (generation,) = await inside.enqueue()

    finished = await inside.until(generation)

    assert finished.status is Status.SUCCEEDED
    assert finished.artifact == video_key(generation.id, 1)
    assert len(inside.engine.runs) == 1


async def test_a_sound_that_ends_the_worker_is_left_out_the_next_time(inside: Inside) -> None:
    async def die(job: Run) -> Done:
        report = inside.engine.report(job, 0.99)
        inside.engine._tell(report.model_copy(update={"stage": Stage.SOUND}))
        raise WorkerDiedError("it was killed")

    inside.engine.script.append(die)
    params = VideoParams("an ox", " ", 64, 64, 5, 2, 5.0, 7, generate_audio=True, audio_prompt="wind")
    heard = new(model=MODEL, params=params)
    await inside.store.submissions.insert([heard], QueueLimits(10))
    inside.dispatcher.wake()

    finished = await inside.until(heard)

    assert finished.status is Status.SUCCEEDED
    assert [run.params.generate_audio for run in inside.engine.runs] == [True, False]
    assert not finished.has_audio
    assert finished.warnings == ("The video is silent. Making its sound ended the worker.",)


async def test_an_adopted_file_has_the_sound_of_its_request(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.finish_and_die)
    params = VideoParams("an ox", " ", 64, 64, 5, 2, 5.0, 7, audio="0" * 64)
    heard = new(model=MODEL, params=params)
    await inside.store.submissions.insert([heard], QueueLimits(10))
    inside.dispatcher.wake()

    assert (await inside.until(heard)).has_audio


# cancellation


async def test_cancelling_a_run_stops_it_and_the_next_begins(inside: Inside) -> None:
    running = await busy(inside)
    (waiting,) = await inside.enqueue()

    await inside.service.cancel("", running.id)

    assert (await inside.read(running)).status is Status.CANCELLED
    assert inside.engine.cancels == [(running.id, 1)]
    assert (await inside.until(waiting)).status is Status.SUCCEEDED
    # the record says so a moment before the event is published
    await eventually(lambda: len(completions(inside)) == 2)
    assert [status for _, status in completions(inside)] == [Status.CANCELLED, Status.SUCCEEDED]


async def test_a_late_result_is_dropped_with_its_file(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.finish_despite_cancel)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)

    await inside.service.cancel("", generation.id)
    (another,) = await inside.enqueue()
    await inside.until(another)

    assert (await inside.read(generation)).status is Status.CANCELLED
    assert files(inside) == {video_key(another.id, 1)}


async def test_a_generation_cancelled_while_its_model_loads_never_runs(inside: Inside) -> None:
    inside.engine.loading.clear()
    (generation,) = await inside.enqueue()
    await inside.until(generation, Status.PROCESSING)

    await inside.service.cancel("", generation.id)
    inside.engine.loading.set()
    (another,) = await inside.enqueue()
    await inside.until(another)

    assert [job.generation_id for job in inside.engine.runs] == [another.id]


async def test_a_cancel_between_renewal_and_run_is_not_lost(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    renew = inside.store.attempts.renew

    async def renew_then_cancel(held: Generation, *args: object) -> None:
        await renew(held, *args)  # type: ignore[arg-type]
        await inside.service.cancel("", held.id)

    monkeypatch.setattr(inside.store.attempts, "renew", renew_then_cancel)
    (generation,) = await inside.enqueue()
    await inside.until(generation)
    monkeypatch.undo()
    (another,) = await inside.enqueue()
    await inside.until(another)

    assert [job.generation_id for job in inside.engine.runs] == [another.id]


# stopping and starting


async def test_a_clean_stop_gives_back_what_was_running(inside: Inside) -> None:
    running = await busy(inside)

    await inside.dispatcher.stop()

    assert inside.engine.is_closed
    assert (await inside.read(running)).status is Status.QUEUED
    assert await inside.outcomes() == [Outcome.RELEASED]


async def restart(inside: Inside) -> Inside:
    """Another server on the same data directory, as if the first had been killed."""
    again = build(inside.folder)
    await again.dispatcher.start()
    return again


async def test_after_a_kill_the_interrupted_runs_again_and_the_queued_run(inside: Inside) -> None:
    running = await busy(inside)
    (waiting,) = await inside.enqueue()

    again = await restart(inside)
    finished = [await again.until(generation) for generation in (running, waiting)]

    assert [generation.status for generation in finished] == [Status.SUCCEEDED] * 2
    assert [generation.attempt for generation in finished] == [2, 1]
    assert (await again.outcomes())[0] == Outcome.ABANDONED
    await again.dispatcher.stop()
    again.store.close()


async def test_after_a_kill_a_finished_file_is_adopted_and_half_a_file_removed(inside: Inside) -> None:
    running = await busy(inside)
    key = video_key(running.id, 1)
    (inside.folders.videos.folder / key).write_bytes(b"whole")
    (inside.folders.videos.folder / ".other.1.mp4.part").write_bytes(b"half")

    again = await restart(inside)

    adopted = await again.read(running)
    assert (adopted.status, adopted.artifact) == (Status.SUCCEEDED, key)
    assert files(again) == {key}
    assert again.engine.runs == []
    await again.dispatcher.stop()
    again.store.close()


async def test_after_a_kill_sync_generations_that_waited_are_cancelled(inside: Inside) -> None:
    await busy(inside)
    (waiting,) = await inside.enqueue(origin=Origin.SYNC)

    again = await restart(inside)

    assert (await again.read(waiting)).status is Status.CANCELLED
    await again.dispatcher.stop()
    again.store.close()


async def test_records_that_cannot_be_written_for_a_while_lose_nothing(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.attempt.BACKOFF_SECONDS", 0.05)
    succeed, failures = inside.store.attempts.succeed, [1, 2, 3]

    async def locked_for_a_while(held: Generation, *what: Any, **facts: Any) -> Generation:
        if failures:
            failures.pop()
            raise RecordsUnavailableError("The database is locked.", "Unlock it.")
        return await succeed(held, *what, **facts)

    monkeypatch.setattr(inside.store.attempts, "succeed", locked_for_a_while)
    (generation,) = await inside.enqueue()

    finished = await inside.until(generation)

    assert finished.status is Status.SUCCEEDED
    assert len(inside.engine.runs) == 1
    await asyncio.sleep(0.05)
    assert completions(inside) == [(generation.id, Status.SUCCEEDED)]


# several devices, loading and unloading


async def test_two_devices_share_the_queue(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", executors=2)
    await inside.dispatcher.start()
    for engine in inside.engines:
        engine.script += [engine.until_cancelled]
    first, second, third = await inside.enqueue(3)
    # if one were cancelled before its run, the third would take its behaviour
    await eventually(lambda: all(engine.runs for engine in inside.engines))
    assert (await inside.read(third)).status is Status.QUEUED

    await inside.service.cancel("", second.id)

    assert (await inside.until(third)).status is Status.SUCCEEDED
    assert (await inside.read(first)).status is Status.PROCESSING
    await inside.dispatcher.stop()
    inside.store.close()


OTHER = "another-model"


def with_another_model(folder: Path) -> Path:
    """A folder with one more model."""
    folder.mkdir()
    text = (BUILT_IN / "wan2.1-t2v-14b.toml").read_text(encoding="utf-8")
    (folder / "another.toml").write_text(text.replace(f'id = "{MODEL}"', f'id = "{OTHER}"'), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("max_overtakes", "loads"), [(2, 2), (1, 3), (0, 6)])
async def test_interleaved_models_are_not_loaded_at_every_step(tmp_path: Path, max_overtakes: int, loads: int) -> None:
    models = with_another_model(tmp_path / "models")
    inside = build(tmp_path / "data", models_dir=models, max_overtakes=max_overtakes)
    generations = [(await inside.enqueue(model=model))[0] for model in (MODEL, OTHER) * 3]
    await inside.dispatcher.start()

    finished = [await inside.until(generation) for generation in generations]

    assert {generation.status for generation in finished} == {Status.SUCCEEDED}
    assert len(list(groupby(inside.engine.loads))) == loads
    await inside.dispatcher.stop()
    inside.store.close()


async def test_generations_with_the_same_loras_are_made_together(tmp_path: Path) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    for name in "xy":
        write_header(loras / f"{name}.safetensors", {"blocks.0.attn1.to_q.lora_A.weight": (4, 5120)})
    inside = build(tmp_path / "data", loras_dir=loras)
    sets = ["x", "y", "", "x", "y", "xy", "yx", ""]
    generations = [(await inside.enqueue(loras=[{"name": name} for name in names]))[0] for names in sets]
    await inside.dispatcher.start()
    for generation in generations:
        await inside.until(generation)

    made = ["".join(lora.name for lora in run.params.loras) for run in inside.engine.runs]
    # LoRAs are merged in the order of the request, which may change the last bits
    assert [names for names, _ in groupby(made)] == ["x", "y", "", "xy", "yx"]
    assert set(inside.engine.loads) == {MODEL}
    await inside.dispatcher.stop()
    inside.store.close()


async def test_places_in_the_queue_follow_what_the_device_will_hold(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", models_dir=with_another_model(tmp_path / "models"))
    await inside.dispatcher.start()
    running = await busy(inside)
    (other,) = await inside.enqueue(model=OTHER)
    (same,) = await inside.enqueue()

    async def places() -> list[int | None]:
        return [(await inside.service.get("", generation.id)).queue_position for generation in (other, same)]

    assert await places() == [2, 1]
    inside.dispatcher.deactivate(inside.service.entry(MODEL))
    assert await places() == [1, 2]
    inside.dispatcher.activate(inside.service.entry(MODEL))
    assert await places() == [2, 1]
    inside.dispatcher.activate(inside.service.entry(OTHER))
    assert await places() == [1, 2]

    await inside.service.cancel("", running.id)
    await inside.until(same)
    assert [job.generation_id for job in inside.engine.runs] == [running.id, other.id, same.id]
    await inside.dispatcher.stop()
    inside.store.close()


async def test_activate_and_deactivate_load_and_unload(inside: Inside) -> None:
    entry = inside.service.entry(MODEL)
    assert inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE
    inside.engine.loading.clear()

    inside.dispatcher.activate(entry)
    assert inside.dispatcher.deployment(MODEL) is Deployment.DEPLOYING
    inside.dispatcher.activate(entry)
    inside.engine.loading.set()
    await _deployment(inside, Deployment.ACTIVE)
    assert inside.engine.loads == [MODEL]

    inside.dispatcher.deactivate(entry)
    assert inside.dispatcher.deployment(MODEL) is Deployment.DEACTIVATING
    await _deployment(inside, Deployment.INACTIVE)
    inside.dispatcher.deactivate(entry)
    assert inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE


@pytest.mark.parametrize(("last", "loaded"), [("activate", Deployment.ACTIVE), ("deactivate", Deployment.INACTIVE)])
async def test_of_many_requests_to_load_and_unload_the_last_one_holds(
    inside: Inside, last: str, loaded: Deployment
) -> None:
    entry, device = inside.service.entry(MODEL), inside.dispatcher.executors[0].device
    inside.engine.loading.clear()
    inside.dispatcher.activate(entry)
    await eventually(lambda: inside.engine.loads)

    for _ in range(100):
        inside.dispatcher.deactivate(entry)
        assert inside.dispatcher.deployment(MODEL) is Deployment.DEACTIVATING
        inside.dispatcher.activate(entry)
        assert inside.dispatcher.deployment(MODEL) is Deployment.DEPLOYING
        # the one that is being carried out, and the last one
        assert len(device.requests) == 2
    getattr(inside.dispatcher, last)(entry)
    inside.engine.loading.set()

    await eventually(lambda: not device.requests)
    assert inside.dispatcher.deployment(MODEL) is loaded
    assert len(inside.engine.loads) <= 2


async def test_requests_to_load_models_without_end_let_the_queue_go_on(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [inside.service.entry(model) for model in (MODEL, "wan-ai-wan2-1-t2v-1-3b-diffusers")]
    load = inside.engine.load

    async def load_slowly(entry: Any) -> Any:
        await inside.engine.unload()
        await asyncio.sleep(0.01)
        return await load(entry)

    async def insist() -> None:
        while True:
            for entry in entries:
                inside.dispatcher.activate(entry)
            await asyncio.sleep(0)

    monkeypatch.setattr(inside.engine, "load", load_slowly)
    insisting = asyncio.create_task(insist())
    await eventually(lambda: len(inside.engine.loads) > 2)
    finished = [await inside.until(generation) for generation in await inside.enqueue(4)]
    insisting.cancel()

    assert {generation.status for generation in finished} == {Status.SUCCEEDED}


async def test_an_empty_device_is_activated_before_one_that_holds_another_model(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", executors=2, models_dir=with_another_model(tmp_path / "models"))
    await inside.dispatcher.start()

    for model in (MODEL, OTHER):
        inside.dispatcher.activate(inside.service.entry(model))
        await eventually(lambda model=model: inside.dispatcher.deployment(model) is Deployment.ACTIVE)

    assert [engine.loads for engine in inside.engines] == [[MODEL], [OTHER]]
    await inside.dispatcher.stop()
    inside.store.close()


async def test_an_idle_device_is_freed_and_loads_again_on_demand(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", idle_unload=0.1)
    await inside.dispatcher.start()
    (first,) = await inside.enqueue()
    await inside.until(first)
    assert inside.dispatcher.deployment(MODEL) is Deployment.ACTIVE

    await eventually(lambda: inside.engine.is_closed)
    assert inside.dispatcher.deployment(MODEL) is Deployment.INACTIVE
    (second,) = await inside.enqueue()
    assert (await inside.until(second)).status is Status.SUCCEEDED
    assert inside.engine.loads == [MODEL, MODEL]
    await inside.dispatcher.stop()
    inside.store.close()


async def test_a_device_that_works_is_not_idle_however_long_it_takes(tmp_path: Path) -> None:
    inside = build(tmp_path / "data", idle_unload=0.1)
    await inside.dispatcher.start()
    running = await busy(inside)
    await asyncio.sleep(0.4)

    assert not inside.engine.is_closed
    assert (await inside.read(running)).status is Status.PROCESSING
    await inside.dispatcher.stop()
    inside.store.close()


async def test_an_activation_that_fails_says_so_until_the_next(inside: Inside) -> None:
    entry = inside.service.entry(MODEL)
    inside.engine.load_errors.append(load_failure("No weights."))

    inside.dispatcher.activate(entry)
    await _deployment(inside, Deployment.ERROR)
    inside.dispatcher.activate(entry)
    await _deployment(inside, Deployment.ACTIVE)


async def _deployment(inside: Inside, wanted: Deployment) -> None:
    await eventually(lambda: inside.dispatcher.deployment(MODEL) is wanted)


async def test_files_of_an_attempt_that_another_server_ended_are_left_to_it(inside: Inside) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)
    files = [
        inside.folders.videos.folder / f"{generation.id}.1.mp4",
        inside.folders.checkpoints.folder / f"{generation.id}.1.ckpt",
    ]
    for file in files:
        file.write_bytes(b"of the first attempt")
    (device,) = inside.dispatcher._devices
    assert device.running is not None
    with inside.store.engine.begin() as tx:
        stolen = update(generations).where(generations.c.id == generation.id)
        tx.execute(stolen.values(attempt=2, owner="another/server", lease_until=time.time() + 600))

    device.running.is_to_renew.set()
    await eventually(lambda: device.running is None)

    assert [file.read_bytes() for file in files] == [b"of the first attempt"] * 2
    assert (await inside.read(generation)).status is Status.PROCESSING


async def test_a_result_is_told_while_files_cannot_be_reached(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()
    monkeypatch.setattr(inside.files.checkpoints, "discard", lambda _: reached.wait())

    (generation,) = await inside.enqueue()
    await eventually(lambda: any(event.generation.status is Status.SUCCEEDED for event in inside.events))

    assert [event.generation.id for event in inside.events if event.generation.is_terminal] == [generation.id]
    reached.set()


async def test_a_stop_gives_back_what_runs_although_files_cannot_be_reached(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.engine.script.append(inside.engine.until_cancelled)
    (generation,) = await inside.enqueue()
    await eventually(lambda: inside.engine.runs)

    async def away(_: object) -> None:
        raise OSError("the object store does not answer")

    monkeypatch.setattr(inside.files.videos, "finished", away)
    await inside.dispatcher.remove("fake:0")

    waiting = await inside.read(generation)
    assert (waiting.status, waiting.server_deaths) == (Status.QUEUED, 0)


async def test_one_generation_that_cannot_be_settled_does_not_hold_up_the_others(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inside.dispatcher.remove("fake:0")
    left = await inside.enqueue(2)
    for _ in left:
        assert await inside.store.attempts.claim("dead/server", 0.0) is not None
    finished = inside.files.videos.finished

    async def away(held: Generation) -> str | None:
        if held.id == left[0].id:
            raise OSError("the object store does not answer")
        return await finished(held)

    monkeypatch.setattr(inside.files.videos, "finished", away)

    assert not await inside.dispatcher.maintenance._settle_abandoned()
    assert [(await inside.read(each)).status for each in left] == [Status.PROCESSING, Status.QUEUED]
    monkeypatch.setattr(inside.files.videos, "finished", finished)
    assert await inside.dispatcher.maintenance._settle_abandoned()
