"""The state of an attempt that a device holds."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from server.core.estimator import Forecast
from server.core.events import Live
from server.core.generation import Generation
from server.engine.protocol import Progressed

End = Callable[[], Awaitable[Generation]]
"""Records the result of an attempt; may be called again if that fails."""


def raise_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled, in whose place the error of a cleanup may have been raised."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@dataclass
class RunningAttempt:
    """A generation that a device holds, and its progress: `saved` (0 … 1) of it is in its checkpoint."""

    held: Generation
    live: Live = field(init=False)
    saved: float = field(init=False)
    fingerprint: dict[str, str] | None = None
    host: str | None = None
    forecast: Forecast | None = None
    warnings: tuple[str, ...] = ()
    is_cancelled: bool = False
    is_lost: bool = False
    """Whether another server has ended the claim: the generation's files may be that server's by now."""
    has_checkpoint: bool = False
    """Whether this attempt has written a checkpoint, so that those of earlier ones are not needed any more."""
    has_superseded: bool = False
    """Whether those have been removed."""
    is_to_renew: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the claim is to be renewed at once: a checkpoint was written that the records do not know of yet, or
    another server may have ended the claim."""
    has_left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the device is free of it."""
    _reported_at: float = 0.0
    end: End | None = None
    """Records the result, once that is known."""
    ending: asyncio.Task[None] | None = None
    """Records and announces it, or has done so."""

    def __post_init__(self) -> None:
        self.saved = self.held.progress
        self.live = Live(progress=self.saved)

    def advance(self, report: Progressed) -> None:
        """Take over the progress that a worker reports."""
        eta = None if self.forecast is None else self.forecast.remaining(report.progress)
        self._reported_at = time.monotonic()
        self.live = Live(report.fraction, eta, report.stage, report.step, report.steps, self.live.preview)
        # a generation that starts over has left its checkpoint aside
        self.saved = min(self.saved, report.fraction)

    @property
    def left(self) -> float | None:
        """Estimated seconds to its end from now, by the last report; None if that cannot be estimated."""
        if self.live.eta is None:
            return None
        return max(0.0, self.live.eta - (time.monotonic() - self._reported_at))
