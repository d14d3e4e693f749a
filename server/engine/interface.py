"""What the scheduler may ask of an engine, which runs generations on a device."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from pipelines.models.catalogue import CatalogueEntry
from server.core.durations import Durations
from server.core.logging import LogFormat
from server.core.settings.sections import RecipeContents
from server.engine.protocol import DeviceMemory, Done, Ready, Run, RunReport


class EngineError(Exception):
    """An error that an engine reports; `str()` is a sentence for the user."""


class DeviceUnavailableError(EngineError):
    """Nothing can be made on the device now, and no work is to blame: other programs hold its memory, for example.

    The same work may succeed later.
    """


class WeightsMissingError(DeviceUnavailableError):
    """The device's machine lacks weights, or a LoRA, that the work needs. Other devices may be able to do it."""


class DeviceTakenError(DeviceUnavailableError):
    """Another server uses the device."""


class WorkerStartError(DeviceUnavailableError):
    """No worker process could be started: the machine has no memory, processes or file descriptors left."""


class WorkerDiedError(EngineError):
    """The worker process ended while it worked."""


class WorkerStuckError(WorkerDiedError):
    """The worker process was killed, since it made no progress with this work."""


class LoadFailedError(EngineError):
    """The model cannot be loaded on the device."""


class GenerationFailedError(EngineError):
    """The generation failed, and the worker goes on."""


class RunCancelledError(EngineError):
    """The run was stopped because it was cancelled, and the device is free."""


class RunSuspendedError(EngineError):
    """The run was stopped to be resumed from its checkpoint later, and the device is free."""


class WorkerOptions(BaseModel):
    """How a worker is started: its torch device, and folders on the machine it runs on; `loras` may be missing.

    `temporary` is for this device's workers alone, one after another: each empties it when it starts.
    `recipe`: what of it is written to a video's file.
    A checkpoint is saved every `checkpoint_interval` seconds, a preview every `preview_interval`; 0: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    artifacts: str
    checkpoints: str
    previews: str
    inputs: str
    cache: str
    temporary: str
    loras: str | None = None
    checkpoint_interval: float = 5.0
    preview_interval: float = 1.0
    recipe: RecipeContents = RecipeContents.FULL
    demo: bool = False
    log_format: LogFormat = LogFormat.TEXT


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine holds: the loaded model and its plan, or a model that is being loaded.

    - `device` is the engine's name, unique among the engines of a server.
    - `loading` is the fraction (0 … 1) of a model's bytes read so far; None while none is being loaded.
    - `error` is why the last load failed.
    - `memory` is the device's, while a worker uses it.
    - `compile_error` is why the loaded model's blocks run uncompiled, if compiling them failed.
    - `starts` counts the workers so far.
    """

    device: str
    model_id: str | None = None
    plan: str | None = None
    loading: float | None = None
    pid: int | None = None
    error: str | None = None
    starts: int = 0
    memory: DeviceMemory | None = None
    compile_error: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded."""
        return self.model_id is not None and self.loading is None


Finish = Callable[[], Awaitable[Done]]
"""Waits for the file of a rendered video; raises GenerationFailedError, WorkerDiedError or DeviceUnavailableError."""


class Engine(Protocol):
    """One device. Calls of load, run and unload never overlap; all others may come at any time."""

    @property
    def state(self) -> EngineState:
        """What it holds now."""

    @property
    def durations(self) -> Durations:
        """The times that the last runs on this device took, which the engine records."""

    async def load(self, entry: CatalogueEntry) -> Ready:
        """Load a model, and start a worker if there is none.

        Raises LoadFailedError, WorkerDiedError or DeviceUnavailableError.
        """

    async def run(self, run: Run, on_report: Callable[[RunReport], None]) -> Finish:
        """Make a video's frames, and return when the device is free. Its file is still being finished then.

        Raises GenerationFailedError, RunCancelledError, RunSuspendedError, WorkerDiedError or DeviceUnavailableError.
        """

    async def prepare(self, prompts: Sequence[str]) -> None:
        """Encode these prompts beside the current run, if there is one and it leaves room for that."""

    async def cancel(self, generation_id: str, attempt: int) -> None:
        """Stop that run if it is the current one; its `run` then ends, by force after a grace period."""

    async def suspend(self, generation_id: str, attempt: int) -> None:
        """Have that run save its checkpoint and stop, if it is the current one; its `run` then ends."""

    async def unload(self) -> None:
        """Free the device."""

    async def close(self) -> None:
        """End the worker."""
