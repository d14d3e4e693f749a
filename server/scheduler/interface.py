"""What the service may ask of a scheduler, and what a scheduler publishes about its devices."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pipelines.core.progress import GenerationStats
from pipelines.core.request import VideoParams
from pipelines.models.catalogue import CatalogueEntry
from server.core.circuit_breaker import Health
from server.core.events import Live
from server.core.fair_queue import Weights
from server.core.generation import Generation
from server.engine.protocol import DeviceMemory


class Deployment(StrEnum):
    """The state of a model's weights between disk and device, in the words of the API."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    DEPLOYING = "deploying"
    DEACTIVATING = "deactivating"
    ERROR = "error"


class Drain(StrEnum):
    """How far a device is drained, which takes nothing more."""

    DRAINING = "draining"
    DRAINED = "drained"
    """It has given back what it made, and has no worker any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A snapshot of one device.

    - `name` is unique among a server's devices.
    - `model` is loaded by `plan`; while it is being loaded, `loading` is the fraction read (0 … 1).
    - `is_busy` is set while the device computes a video.
    - `is_taken` is set while another server uses the device.
    - `error` is the reason of the last failure, while it still counts.
    - `failures` counts since the start; `retry_in` are the seconds until a failing device gets the next generation.
    - `drain` is how far it is drained, None for a device that takes work.
    - `memory` is the device's, known while a worker uses it.
    - `compile_error` is why the loaded model's blocks run uncompiled, if compiling them failed.
    - `worker_starts` counts the workers, `stats` sums up the finished videos, both since the start of the server.
    """

    name: str
    model: str | None = None
    plan: str | None = None
    loading: float | None = None
    is_busy: bool = False
    is_taken: bool = False
    error: str | None = None
    health: Health = Health.HEALTHY
    failures: int = 0
    retry_in: float | None = None
    drain: Drain | None = None
    memory: DeviceMemory | None = None
    compile_error: str | None = None
    worker_starts: int = 0
    stats: GenerationStats = field(default_factory=GenerationStats)


class Eta(Protocol):
    """Estimates of completion times, all made at the same moment."""

    def of(self, generation: Generation, place: int) -> Live | None:
        """The state of a waiting generation, with the seconds to its completion; None if these cannot be estimated.

        `place` is its place in the queue; 1 is next.
        """

    def expected(self, model: str, params: VideoParams) -> float | None:
        """Seconds of a video that has not begun; None if none of its kind and about its size was made."""

    def wait(self, place: int) -> float | None:
        """Seconds until a generation at a place of the queue starts (1 is next); None if that cannot be estimated."""


class Scheduler(Protocol):
    """Takes generations from the queue and runs them on devices."""

    def devices(self) -> Sequence[DeviceStatus]:
        """A snapshot of all devices, in a fixed order."""

    def wake(self) -> None:
        """Look at the queue: something was added."""

    async def cancel(self, generation: Generation) -> None:
        """Stop a generation whose record says cancelled already; `generation` is the record from before that."""

    def check_claims(self, ids: Collection[str] | None = None) -> None:
        """Find out now whether the claims on these generations still hold (None: all): others may have ended them."""

    async def suspend(self, grace: float) -> None:
        """Start nothing more; save what runs and return it to the queue, within `grace` seconds."""

    def live(self, generation: Generation) -> Live | None:
        """The progress of a generation; None unless this attempt at it runs here."""

    def queue_eta(self) -> Eta:
        """Estimates for the generations that wait."""

    @property
    def free_in(self) -> float | None:
        """Seconds until some device takes the next generation; None if that cannot be estimated."""

    @property
    def next_weights(self) -> Sequence[Weights | None]:
        """For each device the weights it will hold when it takes its next generation: they decide the order."""

    def deployment(self, model_id: str) -> Deployment:
        """The state of a model on the device where it has come furthest."""

    def activate(self, entry: CatalogueEntry) -> None:
        """Load a model on some device; returns at once."""

    def deactivate(self, entry: CatalogueEntry) -> None:
        """Unload a model wherever it is loaded, after what runs with it; returns at once."""
