"""How long a request would take, and whether a device of this server has the memory for it. Nothing is reserved."""

from dataclasses import dataclass
from typing import Protocol

from pipelines.core.request import VideoParams
from pipelines.models.catalogue import CatalogueEntry
from server.scheduler.interface import Eta


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a video fits a machine's memory; if not, why, and the largest size (width, height) that does, if any."""

    fits: bool
    reason: str | None = None
    suggestion: tuple[int, int] | None = None


class FitCheck(Protocol):
    """Knows the memory of this server's devices."""

    async def of(self, entry: CatalogueEntry, params: VideoParams) -> Fit | None:
        """Whether a video of these parameters fits; None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is known about a request before it is sent. What is not known is None.

    `seconds` is the time of one video on a device that has the model loaded, `queue_seconds` the time until it starts.
    """

    seconds: float | None
    queue_seconds: float | None
    fit: Fit | None


async def estimate(
    entry: CatalogueEntry, params: VideoParams, times: Eta, queued: int, fit_check: FitCheck | None
) -> Estimate:
    """What is known about a video with these parameters, with so many others waiting."""
    return Estimate(
        seconds=times.expected(entry.id, params),
        queue_seconds=times.wait(queued + 1),
        fit=None if fit_check is None else await fit_check.of(entry, params),
    )
