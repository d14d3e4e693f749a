"""What the dispatcher may ask of whatever carries generations to a device."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from pipelines.core.catalogue import CatalogueEntry
from server.core.durations import Durations
from server.core.logging import LogFormat
from server.engine.protocol import DeviceMemory, Done, Ready, Run, RunReport


class EngineError(Exception):
    """Something an engine reports; `str()` is a sentence for the user."""


class WorkerDiedError(EngineError):
    """The worker process ended in the middle of its work."""


class WorkerStuckError(WorkerDiedError):
    """It was killed, for making no progress with this."""


class LoadFailedError(EngineError):
    """The model cannot be loaded on the device."""


class GenerationFailedError(EngineError):
    """The worker ran the generation and there is no video; the worker itself is well."""


class RunCancelledError(EngineError):
    """The run was stopped because it was cancelled, and the device is free."""


class RunSuspendedError(EngineError):
    """The run was stopped, to be gone on with later from its checkpoint, and the device is free."""


class WorkerOptions(BaseModel):
    """What a worker is told when it starts, in the terms of the machine it runs on: folders, and a torch device.

    A checkpoint is saved every `checkpoint_interval` seconds, a preview drawn every `preview_interval`; 0: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    artifacts: str
    checkpoints: str
    previews: str
    cache: str
    checkpoint_interval: float = 5.0
    preview_interval: float = 1.0
    demo: bool = False
    log_format: LogFormat = LogFormat.TEXT


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine holds: the model loaded and by which plan, or being loaded with how much of it (0 … 1) read.

    `memory` is its card's, while a worker uses it; `starts` is how many workers it has had.
    """

    device: str
    model_id: str | None = None
    plan: str | None = None
    loading: float | None = None
    pid: int | None = None
    error: str | None = None
    starts: int = 0
    memory: DeviceMemory | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded."""
        return self.model_id is not None and self.loading is None


Finish = Callable[[], Awaitable[Done]]
"""Waits for the file of a video whose frames are all made; raises GenerationFailedError or WorkerDiedError."""


class Engine(Protocol):
    """One device. Calls of load, run and unload do not overlap; all others may come at any time."""

    @property
    def state(self) -> EngineState:
        """What it holds now."""

    @property
    def durations(self) -> Durations:
        """The times that the last runs on this device took, which the engine records."""

    async def load(self, entry: CatalogueEntry) -> Ready:
        """Have a model ready, starting the worker if need be; raises LoadFailedError or WorkerDiedError."""

    async def run(self, run: Run, on_report: Callable[[RunReport], None]) -> Finish:
        """Make a video's frames, and return when the device is free: its file is still being finished then.

        Raises GenerationFailedError, RunCancelledError, RunSuspendedError or WorkerDiedError.
        """

    async def prepare(self, prompts: Sequence[str]) -> None:
        """Have these prompts encoded while the run that is going on leaves room for it; else nothing is done."""

    async def cancel(self, generation_id: str, attempt: int) -> None:
        """Stop that run if it is the one going on; its `run` then ends, by force after a grace time."""

    async def suspend(self, generation_id: str, attempt: int) -> None:
        """Have that run save its checkpoint and stop, if it is the one going on; its `run` then ends."""

    async def unload(self) -> None:
        """Free the device."""

    async def close(self) -> None:
        """End the worker."""
