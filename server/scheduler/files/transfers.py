"""Moves the files of runs between the folders of an engine's workers and an object store.

A report counts once the file that it tells of is in the store, so that any server can go on from it. A store that does
not answer costs time, never a generation: a checkpoint that is not stored leaves the one before in its place, and a
video that is not stored returns its generation to the queue.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from pipelines.core.request import INPUTS
from pipelines.models.catalogue import CatalogueEntry
from server.core.durations import Durations
from server.core.errors import reason
from server.core.logging import ids
from server.engine.interface import (
    DeviceUnavailableError,
    Engine,
    EngineError,
    EngineState,
    Finish,
    GenerationFailedError,
    RunCancelledError,
    RunSuspendedError,
)
from server.engine.protocol import Attempt, Checkpointed, Done, Previewed, Ready, Run, RunReport
from server.scheduler.running import raise_if_cancelled
from server.storage.files.object_store.scratch import Scratch

log = logging.getLogger("paddock.files")

STORE_SECONDS = 300.0
"""For so long a finished video is offered to a store that does not take it. Meanwhile the device makes the next one."""

SETTLE_SECONDS = 120.0
"""For so long the last checkpoint of a run that ends early is waited for."""

_MAX_PAUSE = 30.0


class TransferringEngine:
    """An `Engine` around another one, whose workers use the folders of `scratch`.

    A video that cannot be stored within `store_seconds` makes its attempt fail as one on a device that is unavailable.
    """

    def __init__(self, engine: Engine, scratch: Scratch, store_seconds: float = STORE_SECONDS) -> None:
        self._engine = engine
        self._scratch = scratch
        self._store_seconds = store_seconds
        self._bringing: tuple[Attempt, asyncio.Task[Run]] | None = None
        """The run whose files are brought, which the engine does not know of yet."""
        self._stop: EngineError | None = None

    @property
    def state(self) -> EngineState:
        """What the device holds now."""
        return self._engine.state

    @property
    def durations(self) -> Durations:
        """The times of the engine's own work, without that of the transfers."""
        return self._engine.durations

    async def load(self, entry: CatalogueEntry) -> Ready:
        """Load a model."""
        return await self._engine.load(entry)

    async def run(self, run: Run, on_report: Callable[[RunReport], None]) -> Finish:
        """Bring the files that a run needs, and make its frames."""
        async with AsyncExitStack() as stack:
            run = await self._prepare(run, stack)
            sender = _Sender(self._scratch, run, on_report)
            stack.push_async_callback(sender.stop)
            try:
                finish = await self._engine.run(run, sender.note)
            except EngineError as error:
                await self._end(run, sender, error)
                raise
            # no preview may come after the run
            await sender.previews.stop()
            # the file may be made of the inputs, too
            return partial(self._finish, run, finish, sender, stack.pop_all())

    async def _finish(self, run: Run, finish: Finish, sender: "_Sender", stack: AsyncExitStack) -> Done:
        async with stack:
            try:
                done = await finish()
            except EngineError as error:
                await self._end(run, sender, error)
                raise
            await self._store(run)
        await self._forget(run)
        return done

    async def _end(self, run: Run, sender: "_Sender", error: EngineError) -> None:
        """Have the last checkpoint stored, unless nothing will go on from it."""
        if isinstance(error, RunCancelledError | GenerationFailedError):
            await sender.stop()
            await self._forget(run)
        else:
            await sender.checkpoints.settle(SETTLE_SECONDS)

    async def _store(self, run: Run) -> None:
        deadline, pause = time.monotonic() + self._store_seconds, 1.0
        while True:
            try:
                await self._scratch.videos.send(run.artifact)
            except OSError as error:
                raise_if_cancelled()
                is_lost = error.errno == errno.ENOENT
                if is_lost or time.monotonic() + pause > deadline:
                    raise DeviceUnavailableError(f"The video could not be stored: {reason(error)}.") from error
                said = ids(run.generation_id, run.attempt)
                log.warning(
                    "%s was not stored; trying again in %g s: %s", run.artifact, pause, reason(error), extra=said
                )
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    async def _forget(self, run: Run) -> None:
        checkpoints = [key for key in (run.checkpoint, run.resume_from) if key is not None]
        await self._scratch.forget([run.artifact], checkpoints, [run.preview])

    async def _prepare(self, run: Run, stack: AsyncExitStack) -> Run:
        """Bring what a run needs, unless it is cancelled or suspended meanwhile; `stack` lets go of it."""
        bringing = asyncio.create_task(self._bring(run, stack))
        self._bringing, self._stop = (run.about, bringing), None
        try:
            prepared = await bringing
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if self._stop is None or (this is not None and this.cancelling()):
                bringing.cancel()
                raise
        except OSError as error:
            # only the error of a folder has a number: the scratch itself may be gone
            if isinstance(error, FileNotFoundError) and error.errno is None:
                raise GenerationFailedError("An input of the request cannot be read any more.") from error
            raise DeviceUnavailableError(f"The files of a generation could not be read: {reason(error)}.") from error
        finally:
            self._bringing = None
        if self._stop is not None:
            raise self._stop
        return prepared

    async def _bring(self, run: Run, stack: AsyncExitStack) -> Run:
        inputs = {key for name in INPUTS if (key := getattr(run, name)) is not None}
        await stack.enter_async_context(self._scratch.using_inputs(inputs))
        resume_from = await self._scratch.checkpoint_for(run.generation_id, run.attempt, run.resume_from)
        return run.model_copy(update={"resume_from": resume_from})

    async def prepare(self, prompts: Sequence[str]) -> None:
        """Have prompts encoded while a run goes on."""
        await self._engine.prepare(prompts)

    async def cancel(self, generation_id: str, attempt: int) -> None:
        """Stop a run, or what is done before it."""
        if not self._stop_bringing((generation_id, attempt), RunCancelledError("it was cancelled")):
            await self._engine.cancel(generation_id, attempt)

    async def suspend(self, generation_id: str, attempt: int) -> None:
        """Have a run save its checkpoint and stop; before it there is nothing to save."""
        if not self._stop_bringing((generation_id, attempt), RunSuspendedError("it was suspended")):
            await self._engine.suspend(generation_id, attempt)

    def _stop_bringing(self, about: Attempt, error: EngineError) -> bool:
        if self._bringing is None or self._bringing[0] != about:
            return False
        self._stop = error
        self._bringing[1].cancel()
        return True

    async def unload(self) -> None:
        """Free the device."""
        await self._engine.unload()

    async def close(self) -> None:
        """End the worker."""
        await self._engine.close()


class _Sender:
    """Stores the checkpoints and previews of one run, and passes on each report once it is true of the store."""

    def __init__(self, scratch: Scratch, run: Run, on_report: Callable[[RunReport], None]) -> None:
        self._on_report = on_report
        self.checkpoints = _Channel(partial(scratch.checkpoints.send, run.checkpoint), on_report)
        self.previews = _Channel(partial(scratch.previews.send, run.preview), on_report)

    def note(self, report: RunReport) -> None:
        """Take a report of the worker."""
        match report:
            case Checkpointed():
                self.checkpoints.offer(report)
            case Previewed():
                self.previews.offer(report)
            case _:
                self._on_report(report)

    async def stop(self) -> None:
        """Store nothing more."""
        await self.checkpoints.stop()
        await self.previews.stop()


class _Channel:
    """Stores a file that is written again and again, one version at a time, and leaves out what it cannot follow."""

    def __init__(self, send: Callable[[], Awaitable[None]], tell: Callable[[RunReport], None]) -> None:
        self._send = send
        self._tell = tell
        self._newest: Checkpointed | Previewed | None = None
        self._sending: asyncio.Task[None] | None = None

    def offer(self, report: Checkpointed | Previewed) -> None:
        """Store the version that a report tells of, and pass it on then."""
        self._newest = report
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while (report := self._newest) is not None:
            self._newest = None
            try:
                await self._send()
            except OSError as error:
                said = ids(report.generation_id, report.attempt)
                log.warning("a %s was not stored: %s", _NAMES[type(report)], reason(error), extra=said)
            else:
                self._tell(report)

    async def settle(self, seconds: float) -> None:
        """Wait until the last version is stored, for so long at most."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=seconds)
        await self.stop()

    async def stop(self) -> None:
        """Store nothing more."""
        self._newest = None
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)


_NAMES: dict[type[RunReport], str] = {Checkpointed: "checkpoint", Previewed: "preview"}
