"""The Generation record and the law of its statuses: who may become what, written once."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipelines.core.request import VideoParams


class Status(StrEnum):
    """Where a generation is in its life."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = frozenset({Status.QUEUED, Status.PROCESSING})
TERMINAL = frozenset(Status) - ACTIVE

MAY_BECOME: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.PROCESSING, Status.CANCELLED, Status.FAILED}),
    # back to the queue only from the hand that held it, or once its lease has expired
    Status.PROCESSING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


def sources(target: Status) -> frozenset[Status]:
    """The statuses from which a generation may become `target`."""
    return frozenset(status for status, targets in MAY_BECOME.items() if target in targets)


class Origin(StrEnum):
    """The route a generation came by: `sync` has a client waiting on the line, `queue` has not."""

    SYNC = "sync"
    QUEUE = "queue"


class Outcome(StrEnum):
    """How an attempt at a generation ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WORKER_DIED = "worker_died"
    RELEASED = "released"
    ABANDONED = "abandoned"
    """Its server died, or lost its lease."""


WORKER_DEATHS_ALLOWED = 2
"""A generation fails at this many worker deaths in a row that got no further than the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One video asked for, as the store keeps it.

    `seq` orders generations; times are in unix seconds; `parameters` is what the request carried, echoed in rows;
    `params` is the video they resolve to, None when they do not; `attempt` counts the claims so far; `artifact` is
    the key of the finished file; `tenant` is whose API key asked, empty without keys; `accepted_by` names the server
    whose client asked.
    """

    id: str
    model: str
    status: Status
    origin: Origin
    enqueued_at: float
    accepted_by: str | None = None
    tenant: str = ""
    media_type: str = "video"
    parameters: dict[str, Any] = field(default_factory=dict)
    params: VideoParams | None = None
    target_namespace: str | None = None
    target_repo: str | None = None
    target_directory: str | None = None
    error_message: str | None = None
    artifact: str | None = None
    progress: float = 0.0
    fingerprint: dict[str, str] | None = None
    started_at: float | None = None
    completed_at: float | None = None
    attempt: int = 0
    owner: str | None = None
    lease_until: float | None = None
    worker_deaths: int = 0
    server_deaths: int = 0
    furthest: float = 0.0
    seq: int = 0

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL


def after_worker_death(generation: Generation, reached: float) -> tuple[int, float]:
    """The counts after a worker died having brought a generation to progress `reached` (0 … 1).

    Returns worker deaths in a row without progress between them, and the furthest progress of any attempt.
    """
    if reached > generation.furthest:
        return 1, reached
    return generation.worker_deaths + 1, generation.furthest
