"""Service, records, dispatcher and engine together, driven at random: whatever comes, nothing is lost or done twice."""

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


Word = Callable[[Run], "Done | Finish"]


class ScriptedEngine(FakeEngine):
    """An engine whose every run waits for a word, and whose every file for another, if the first was to render it."""

    def __init__(self, folder: Path, device: str = "scripted") -> None:
        super().__init__(folder, device)
        self.job: Run | None = None
        self.word: asyncio.Future[Word] | None = None

    async def run(self, job: Run, on_report: Callable[[RunReport], None]) -> Finish:
        self.job, self._tell = job, on_report
        self.word = asyncio.get_running_loop().create_future()
        self.show(job)
        on_report(self.report(job, 0.5))
        try:
            end = (await self.word)(job)
            return whole(end) if isinstance(end, Done) else end
        finally:
            self.job = self.word = None

    def say(self, word: Word) -> None:
        """End the run, if there is one, in a way."""
        if self.word is not None and not self.word.done():
            self.word.set_result(word)

    def kill(self) -> None:
        """End the worker with all that it does."""
        self.say(self.die)
        self.end_files(self.die)

    async def cancel(self, generation_id: str, attempt: int) -> None:
        if self.job is not None and (self.job.generation_id, self.job.attempt) == (generation_id, attempt):
            self.say(raising(RunCancelledError("cancelled")))

    async def suspend(self, generation_id: str, attempt: int) -> None:
        if self.job is not None and (self.job.generation_id, self.job.attempt) == (generation_id, attempt):
            self.save(self.job, 0.4)
            self.say(raising(RunSuspendedError("suspended")))

    async def close(self) -> None:
        await super().close()
        self.kill()


def raising(error: Exception) -> Callable[[Run], Done]:
    def end(_job: Run) -> Done:
        raise error

    return end


class Machine(RuleBasedStateMachine):
    """A server that is asked, cancelled, broken and started again, and what must hold at every moment."""

    words: ClassVar = {"fail": raising(GenerationFailedError("Not numbers."))}

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.seen: dict[str, Generation] = {}
        self.cancelled: set[str] = set()
        self.failed: set[str] = set()
        self.inside: Inside

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something done, and what follows from it."""

        async def and_settle() -> Any:
            result = await work
            # writes go through threads: as long as one is under way, more follows
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

    # what clients do

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

    # what a worker does; whether one runs is a matter of time, which must not decide what is drawn

    @rule(end=st.sampled_from(["finish", "render", "fail", "finish_and_die"]))
    def end_run(self, end: str) -> None:
        if self.engine.job is None:
            return
        if end == "fail":
            self.failed.add(self.engine.job.generation_id)

        async def say() -> None:
            self.engine.say(self.words.get(end) or getattr(self.engine, end))

        self.do(say())

    @rule(end=st.sampled_from(["finish", "finish", "fail", "finish_and_die"]))
    def end_files(self, end: str) -> None:
        self.failed |= {name.partition(".")[0] for name in self.engine.files} if end == "fail" else set()

        async def say() -> None:
            self.engine.end_files(self.words.get(end) or getattr(self.engine, end))

        self.do(say())

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

    # what happens to the server

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
            # nothing of what a clean stop does: its tasks are simply no more
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

    # what must hold

    @invariant()
    def the_law_is_kept(self) -> None:
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
        """Rows and attempts of one moment: a status never changes without an attempt, but for what has had none."""
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
                    self.engine.say(self.engine.finish)
                    self.engine.end_files(self.engine.finish)
                    await asyncio.sleep(0.003)

        self.do(finish_all())
        self.the_law_is_kept()
        self.do(self.inside.dispatcher.stop())
        kept = (self.inside.folders.checkpoints, self.inside.folders.previews)
        assert not [path.name for each in kept for path in each.folder.iterdir()]
        videos = {path.name for path in self.inside.folders.videos.folder.iterdir()}
        self.inside.store.close()
        self.loop.close()
        shutil.rmtree(self.folder)
        assert videos >= {each.artifact for each in self.seen.values() if each.artifact}


TestMachine = pytest.mark.heavy(Machine.TestCase)
TestMachine.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
