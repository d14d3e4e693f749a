"""An engine without a device: a test decides what happens to each run, and when."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipelines.core.progress import GenerationStats, Stage
from pipelines.models.catalogue import CatalogueEntry
from server.core.durations import Durations
from server.engine.interface import (
    EngineState,
    Finish,
    LoadFailedError,
    RunCancelledError,
    RunSuspendedError,
    WorkerDiedError,
)
from server.engine.protocol import Checkpointed, Done, Previewed, Progressed, Ready, Run, RunReport, Warned


class FakeEngine:
    """Follows a script: each run takes the next behaviour; without one it writes its file and is done.

    A behaviour returns Done, or a Finish that waits for the file, or raises the error of the run.
    """

    def __init__(self, folder: Path, device: str = "fake") -> None:
        self.state = EngineState(device=device)
        self.durations = Durations()
        self.folder = folder
        self.fingerprint = {"engine": "fake"}
        self.loads: list[str] = []
        self.runs: list[Run] = []
        self.prepared: list[list[str]] = []
        self.files: dict[str, asyncio.Future[Callable[[Run], Done]]] = {}
        self.cancels: list[tuple[str, int]] = []
        self.script: list[Callable[[Run], object]] = []
        self.load_errors: list[Exception] = []
        self.loading = asyncio.Event()
        self.loading.set()
        self.is_closed = False
        self._cancelled = asyncio.Event()
        self._suspended = asyncio.Event()
        self._killed = asyncio.Event()
        self._tell: Callable[[RunReport], None] = lambda _: None

    async def load(self, entry: CatalogueEntry) -> Ready:
        self.loads.append(entry.id)
        self.state = replace(self.state, model_id=entry.id, loading=0.0, error=None)
        await self.loading.wait()
        if self.load_errors:
            error = self.load_errors.pop(0)
            self.state = replace(self.state, model_id=None, loading=None, error=str(error))
            raise error
        self.state = replace(self.state, loading=None)
        return Ready(model_id=entry.id, fingerprint=self.fingerprint)

    async def run(self, job: Run, on_report: Callable[[RunReport], None]) -> Finish:
        self.runs.append(job)
        self._cancelled.clear()
        self._suspended.clear()
        timer = self.durations.begin(self.state.model_id or "", {"engine": "fake"}, job.params)

        def tell(report: RunReport) -> None:
            if isinstance(report, Progressed):
                timer.note(report.progress)
            on_report(report)

        self._tell = tell
        self.show(job)
        tell(self.report(job, 0.5))
        behaviour = self.script.pop(0) if self.script else self.finish
        result = behaviour(job)
        if asyncio.iscoroutine(result):
            result = await result
        finish = whole(result) if isinstance(result, Done) else result
        assert callable(finish)

        async def finish_and_record() -> Done:
            done: Done = await finish()
            timer.succeed(done.fingerprint)
            return done

        return finish_and_record

    @staticmethod
    def report(job: Run, fraction: float) -> Progressed:
        return Progressed(
            generation_id=job.generation_id,
            attempt=job.attempt,
            stage=Stage.DENOISE,
            step=1,
            steps=2,
            fraction=fraction,
            seconds=2.0,
        )

    def finish(self, job: Run) -> Done:
        """Write the complete file."""
        (self.folder / job.artifact).write_bytes(b"video")
        return Done(
            generation_id=job.generation_id,
            attempt=job.attempt,
            artifact=job.artifact,
            fingerprint={"engine": "fake"},
            stats=GenerationStats(1, 1, 2, 0),
        )

    def render(self, job: Run) -> Finish:
        """Make all frames; the file's end waits for `end_files`."""
        word = self.files[job.artifact] = asyncio.get_running_loop().create_future()

        async def finish() -> Done:
            return (await word)(job)

        return finish

    def end_files(self, behaviour: Callable[[Run], Done]) -> None:
        """End all files that wait, by a behaviour."""
        for word in self.files.values():
            if not word.done():
                word.set_result(behaviour)

    async def until_cancelled(self, job: Run) -> Done:
        """Run until it is cancelled."""
        await self._cancelled.wait()
        raise RunCancelledError("cancelled")

    async def until_suspended(self, job: Run) -> Done:
        """Run until it is suspended, and save a checkpoint."""
        await self._suspended.wait()
        self.save(job, 0.4)
        raise RunSuspendedError("suspended")

    def tell(self, fraction: float) -> None:
        """Report the progress of the current run."""
        self._tell(self.report(self.runs[-1], fraction))

    def save(self, job: Run, fraction: float) -> None:
        """Write a checkpoint and report it."""
        (self.folder.parent / "checkpoints" / job.checkpoint).write_bytes(b"half")
        self._tell(Checkpointed(generation_id=job.generation_id, attempt=job.attempt, fraction=fraction))

    def warn(self, *warnings: str) -> None:
        """Report warnings about the current run."""
        job = self.runs[-1]
        self._tell(Warned(generation_id=job.generation_id, attempt=job.attempt, warnings=warnings))

    def show(self, job: Run) -> None:
        """Write a preview and report it, if there is space for one."""
        with suppress(OSError):
            (self.folder.parent / "previews" / job.preview).write_bytes(b"picture")
            self._tell(Previewed(generation_id=job.generation_id, attempt=job.attempt, step=1))

    async def finish_despite_cancel(self, job: Run) -> Done:
        """Finish just when it is cancelled."""
        await self._cancelled.wait()
        return self.finish(job)

    def die(self, job: Run) -> Done:
        """The worker has died."""
        raise WorkerDiedError("it was killed by SIGKILL")

    async def until_killed(self, job: Run) -> Done:
        """Run until the worker dies."""
        self._killed.clear()
        await self._killed.wait()
        return self.die(job)

    def kill(self) -> None:
        """End the worker, with its run and the file that it finishes."""
        self._killed.set()
        self.end_files(self.die)

    def finish_and_die(self, job: Run) -> Done:
        """The file is complete, but its report is not sent."""
        self.finish(job)
        raise WorkerDiedError("it was killed by SIGKILL")

    async def prepare(self, prompts: Sequence[str]) -> None:
        self.prepared.append([*prompts])

    async def cancel(self, generation_id: str, attempt: int) -> None:
        self.cancels.append((generation_id, attempt))
        self._cancelled.set()

    async def suspend(self, generation_id: str, attempt: int) -> None:
        self._suspended.set()

    async def unload(self) -> None:
        self.state = replace(self.state, model_id=None)

    async def close(self) -> None:
        self.is_closed = True
        self.state = EngineState(device=self.state.device)


def whole(done: Done) -> Finish:
    """A Finish that returns at once."""

    async def finish() -> Done:
        return done

    return finish


def load_failure(sentence: str) -> LoadFailedError:
    """The error of an engine that finds no weights."""
    return LoadFailedError(sentence)
