"""A device that computes nothing: it loads for a while, reports progress and checkpoints as a worker does, and ends."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pipelines.core.progress import GenerationStats, Stage
from pipelines.models.catalogue import CatalogueEntry
from server.core.durations import Durations
from server.engine.interface import EngineState, Finish, RunCancelledError, RunSuspendedError
from server.engine.protocol import Checkpointed, Done, Progressed, Ready, Run, RunReport

FINGERPRINT = {"engine": "synthetic"}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a generation (from a half of it to one and a half, by chance), of loading a model, between reports of
    progress, and between checkpoints.
    """

    generation: float
    load: float = 0.2
    report: float = 1.0
    checkpoint: float = 5.0


@dataclass
class Placements:
    """When devices got work: `first` are the seconds from their making to their first work, `waits` are later moments,
    each with the seconds that the device had been free; `runs` are the moments by generation. In Unix seconds.
    """

    first: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    runs: dict[str, float] = field(default_factory=dict)

    def note(self, free_since: float, *, is_first: bool) -> None:
        """A device that was free works now."""
        now = time.time()
        if is_first:
            self.first.append(now - free_since)
        else:
            self.waits.append((now, now - free_since))


class SyntheticDevice:
    """An `Engine` without a worker process. Its first generation counts as begun earlier, so that devices which all
    begin at once do not end at once.
    """

    def __init__(self, name: str, pace: Pace, placements: Placements, dice: random.Random) -> None:
        self.state = EngineState(device=name)
        self.durations = Durations()
        self.finished = 0
        self._pace = pace
        self._placements = placements
        self._dice = dice
        self._free_since = time.time()
        self._is_first = True
        self._running: tuple[str, int] | None = None
        self._stop: asyncio.Future[Exception] | None = None

    async def load(self, entry: CatalogueEntry) -> Ready:
        """Wait as long as a load takes, unless the model is loaded."""
        if self.state.model_id != entry.id:
            # the device is placed: it works for a generation from here on
            self._note_placed()
            self.state = replace(self.state, model_id=entry.id, loading=0.0)
            await asyncio.sleep(self._pace.load)
            self.state = replace(self.state, loading=None)
        return Ready(model_id=entry.id, fingerprint=FINGERPRINT)

    async def run(self, run: Run, on_report: Callable[[RunReport], None]) -> Finish:
        """Report progress until the time is over, or the run is stopped."""
        self._note_placed()
        self._placements.runs[run.generation_id] = time.time()
        self._running, self._stop = run.about, asyncio.get_running_loop().create_future()
        try:
            await self._work(run, on_report)
        finally:
            self._running, self._stop, self._free_since = None, None, time.time()
        self.finished += 1

        async def finish() -> Done:
            about = {"generation_id": run.generation_id, "attempt": run.attempt}
            return Done(**about, artifact=run.artifact, fingerprint=FINGERPRINT, stats=GenerationStats())

        return finish

    async def _work(self, run: Run, on_report: Callable[[RunReport], None]) -> None:
        seconds = self._pace.generation * self._dice.uniform(0.5, 1.5)
        done = seconds * self._dice.random() if self._is_first else 0.0
        self._is_first = False
        saved = done
        timer = self.durations.begin(self.state.model_id or "", FINGERPRINT, run.params)
        while done < seconds:
            pause = min(self._pace.report, seconds - done)
            await self._wait(pause)
            done += pause
            report = _progressed(run, done, seconds)
            timer.note(report.progress)
            on_report(report)
            if done - saved >= self._pace.checkpoint and done < seconds:
                saved = done
                about = {"generation_id": run.generation_id, "attempt": run.attempt}
                on_report(Checkpointed(**about, fraction=done / seconds))
        timer.succeed(FINGERPRINT)

    async def _wait(self, seconds: float) -> None:
        assert self._stop is not None, "it runs"
        ended, _ = await asyncio.wait({self._stop}, timeout=seconds)
        if ended:
            raise self._stop.result()

    def _note_placed(self) -> None:
        if self._free_since:
            self._placements.note(self._free_since, is_first=self._is_first)
            self._free_since = 0.0

    def _end(self, about: tuple[str, int], error: Exception) -> None:
        if self._running == about and self._stop is not None and not self._stop.done():
            self._stop.set_result(error)

    async def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing is encoded."""

    async def cancel(self, generation_id: str, attempt: int) -> None:
        """Stop that run."""
        self._end((generation_id, attempt), RunCancelledError("it was cancelled"))

    async def suspend(self, generation_id: str, attempt: int) -> None:
        """Stop that run; there is nothing to save."""
        self._end((generation_id, attempt), RunSuspendedError("it was suspended"))

    async def unload(self) -> None:
        """Forget the model."""
        self.state = replace(self.state, model_id=None)

    async def close(self) -> None:
        """Forget the model; there is no worker."""
        self.state = EngineState(device=self.state.device)


def _progressed(run: Run, done: float, seconds: float) -> Progressed:
    steps = run.params.num_inference_steps
    return Progressed(
        generation_id=run.generation_id,
        attempt=run.attempt,
        stage=Stage.DENOISE,
        step=min(steps, int(steps * done / seconds)),
        steps=steps,
        fraction=min(1.0, done / seconds),
        seconds=done,
    )
