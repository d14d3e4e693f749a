"""Stateful tests of service, scheduler and storage with a scripted engine: nothing is lost or done twice."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.core.generation import MAY_BECOME, Generation, Origin, Outcome, Status
from server.engine.interface import Finish, GenerationFailedError, RunCancelledError, RunSuspendedError
from server.engine.protocol import Done, Run, RunReport
from tests.server.conftest import Inside, build
from tests.server.fakes import FakeEngine, whole

MODELS = ("wan-ai-wan2-1-t2v-14b-diffusers", "wan-ai-wan2-1-t2v-1-3b-diffusers")


End = Callable[[Run], "Done | Finish"]


class ScriptedEngine(FakeEngine):
    """An engine whose runs and file writes wait until the test ends them."""

    def __init__(self, folder: Path, device: str = "scripted") -> None:
        super().__init__(folder, device)
        self.job: Run | None = None
        self._end: asyncio.Future[End] | None = None

    async def run(self, job: Run, on_report: Callable[[RunReport], None]) -> Finish:
        self.job, self._tell = job, on_report
        self._end = asyncio.get_running_loop().create_future()
        self.show(job)
        on_report(self.report(job, 0.5))
        try:
            result = (await self._end)(job)
            return whole(result) if isinstance(result, Done) else result
        finally:
            self.job = self._end = None

    def end_run(self, end: End) -> None:
        """End the current run, if any, in the given way."""
        if self._end is not None and not self._end.done():
            self._end.set_result(end)

    def kill(self) -> None:
        """Kill the worker with all it is doing."""
        self.end_run(self.die)
        self.end_files(self.die)

    async def cancel(self, generation_id: str, attempt: int) -> None:
        if self.job is not None and (self.job.generation_id, self.job.attempt) == (generation_id, attempt):
            self.end_run(raising(RunCancelledError("cancelled")))

    async def suspend(self, generation_id: str, attempt: int) -> None:
        if self.job is not None and (self.job.generation_id, self.job.attempt) == (generation_id, attempt):
            self.save(self.job, 0.4)
            self.end_run(raising(RunSuspendedError("suspended")))

    async def close(self) -> None:
        await super().close()
        self.kill()


def raising(error: Exception) -> Callable[[Run], Done]:
    def end(_job: Run) -> Done:
        raise error

    return end


class ServerMachine(RuleBasedStateMachine):
    """Requests, cancellations, failures and restarts in random order, and the invariants that must always hold."""

    ends: ClassVar = {"fail": raising(GenerationFailedError("Not numbers."))}

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.seen: dict[str, Generation] = {}
        self.cancelled: set[str] = set()
        self.failed: set[str] = set()
        self.inside: Inside

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine and give its consequences time to happen."""

        async def and_settle() -> Any:
            result = await work
            # database writes run in threads, and each may trigger more
            for _ in range(4):
                await asyncio.sleep(0.003)
            return result

        return self.loop.run_until_complete(and_settle())

    @property
    def engine(self) -> ScriptedEngine:
        engine = self.inside.engines[0]
        assert isinstance(engine, ScriptedEngine)
        return engine

    @initialize()
    def start(self) -> None:
        async def build_and_start() -> None:
            self.inside = build(self.folder / "data", engine=ScriptedEngine, lease=2.0)
            await self.inside.dispatcher.start()

        self.do(build_and_start())

    # actions of clients

    @rule(count=st.integers(1, 2), model=st.sampled_from(MODELS), origin=st.sampled_from(Origin))
    def submit(self, count: int, model: str, origin: Origin) -> None:
        for generation in self.do(self.inside.enqueue(count, origin, model=model)):
            self.seen[generation.id] = generation

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        if not self.seen:
            return
        id_ = list(self.seen)[which % len(self.seen)]
        self.cancelled.add(id_)
        self.do(self.inside.service.cancel("", id_))

    # actions of a worker; whether one is running depends on timing, which must not influence what Hypothesis draws

    @rule(end=st.sampled_from(["finish", "render", "fail", "finish_and_die"]))
    def end_run(self, end: str) -> None:
        if self.engine.job is None:
            return
        if end == "fail":
            self.failed.add(self.engine.job.generation_id)

        async def end_it() -> None:
            self.engine.end_run(self.ends.get(end) or getattr(self.engine, end))

        self.do(end_it())

    @rule(end=st.sampled_from(["finish", "finish", "fail", "finish_and_die"]))
    def end_files(self, end: str) -> None:
        self.failed |= {name.partition(".")[0] for name in self.engine.files} if end == "fail" else set()

        async def end_it() -> None:
            self.engine.end_files(self.ends.get(end) or getattr(self.engine, end))

        self.do(end_it())

    @rule()
    def kill_worker(self) -> None:
        async def kill() -> None:
            self.engine.kill()

        self.do(kill())

    @rule()
    def save(self) -> None:
        async def save() -> None:
            if self.engine.job is not None:
                self.engine.save(self.engine.job, 0.5)

        self.do(save())

    # stops and restarts of the server

    @rule()
    def stop_and_start(self) -> None:
        async def stop() -> None:
            await self.inside.dispatcher.suspend(5)
            await self.inside.dispatcher.stop()
            self.inside.store.close()

        self.do(stop())
        self.start()

    @rule()
    def kill_and_start(self) -> None:
        async def kill() -> None:
            # unlike a clean stop: the tasks are only cancelled
            tasks = [
                *self.inside.dispatcher.maintenance.tasks,
                *(executor._task for executor in self.inside.dispatcher.executors),
            ]
            tasks += [task for executor in self.inside.dispatcher.executors for task in executor._background]
            for task in tasks:
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
            self.inside.store.close()

        self.do(kill())
        self.start()

    # invariants

    @invariant()
    def invariants_hold(self) -> None:
        if not hasattr(self, "inside"):
            return
        rows, log = self.do(self.look())
        for id_, before in self.seen.items():
            now = rows[id_]
            assert now.attempt >= before.attempt
            assert 0 <= now.progress <= 1
            if before.is_terminal:
                assert (now.status, now.artifact) == (before.status, before.artifact)
            elif now.status is not before.status and now.attempt == before.attempt:
                assert now.status in MAY_BECOME[before.status]
            assert (now.artifact is not None) == (now.status is Status.SUCCEEDED)
            if now.artifact is not None:
                assert (self.inside.folders.videos.folder / now.artifact).is_file()
            if now.status is Status.FAILED:
                deaths = ("The worker process died 2 times in a row", "The server died 10 times in a row")
                assert id_ in self.failed or str(now.error_message).startswith(deaths)
            if now.status is Status.CANCELLED:
                assert id_ in self.cancelled or (now.origin, now.attempt) == (Origin.SYNC, 0)
            tries = [entry["outcome"] for entry in log if entry["generation_id"] == id_]
            assert len(tries) == now.attempt
            assert tries.count(Outcome.SUCCEEDED) == (now.status is Status.SUCCEEDED)
            assert tries.count(None) == (now.status is Status.PROCESSING)
        self.seen = rows

    async def look(self) -> tuple[dict[str, Generation], list[dict[str, Any]]]:
        """A consistent snapshot of rows and attempts: a status changes only along with the attempts."""
        while True:
            log = await self.inside.store.attempt_log()
            rows = {id_: (await self.inside.service.get("", id_)).generation for id_ in self.seen}
            if await self.inside.store.attempt_log() == log:
                return rows, log

    def teardown(self) -> None:
        if not hasattr(self, "inside"):
            return

        async def finish_all() -> None:
            async with asyncio.timeout(60):
                while not all([(await self.inside.read(each)).is_terminal for each in self.seen.values()]):
                    self.engine.end_run(self.engine.finish)
                    self.engine.end_files(self.engine.finish)
                    await asyncio.sleep(0.003)

        self.do(finish_all())
        self.invariants_hold()
        self.do(self.inside.dispatcher.stop())
        kept = (self.inside.folders.checkpoints, self.inside.folders.previews)
        assert not [path.name for each in kept for path in each.folder.iterdir()]
        videos = {path.name for path in self.inside.folders.videos.folder.iterdir()}
        self.inside.store.close()
        self.loop.close()
        shutil.rmtree(self.folder)
        assert videos >= {each.artifact for each in self.seen.values() if each.artifact}


TestServerMachine = pytest.mark.heavy(ServerMachine.TestCase)
TestServerMachine.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
