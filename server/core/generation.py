"""The record of a generation, and the law of its statuses."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from pipelines.core.request import VideoParams
from server.core.fair_queue import Weights


class Status(StrEnum):
    """The stages of a generation's life."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = frozenset({Status.QUEUED, Status.PROCESSING})
TERMINAL = frozenset(Status) - ACTIVE

MAY_BECOME: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.PROCESSING, Status.CANCELLED, Status.FAILED}),
    # back to the queue only by its owner, or once its lease has expired
    Status.PROCESSING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


def sources(target: Status) -> frozenset[Status]:
    """The statuses from which a generation may become `target`."""
    return frozenset(status for status, targets in MAY_BECOME.items() if target in targets)


class Origin(StrEnum):
    """The route a generation was submitted by: on `sync` a client waits for the result, on `queue` none does."""

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


class WebhookEvent(StrEnum):
    """What a webhook may be told of a generation. It starts once, however many attempts it takes."""

    STARTED = "generation.started"
    SUCCEEDED = "generation.succeeded"
    FAILED = "generation.failed"
    CANCELLED = "generation.cancelled"


WEBHOOK_EVENTS: dict[Status, WebhookEvent] = {
    Status.PROCESSING: WebhookEvent.STARTED,
    Status.SUCCEEDED: WebhookEvent.SUCCEEDED,
    Status.FAILED: WebhookEvent.FAILED,
    Status.CANCELLED: WebhookEvent.CANCELLED,
}
"""The events by the statuses that they tell of."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """The URL that is told of a generation's `events`. Links in what it is told begin with `base`."""

    url: str
    events: tuple[str, ...]
    base: str


ENHANCED_PROMPT = "enhanced_prompt"
"""What a generation awaits whose prompt is to be rewritten. No URL is like it."""


@dataclass(frozen=True, slots=True)
class Enhancement:
    """How the prompt of a generation is, or was, rewritten by a language model.

    - `request` is the id of the first generation of its request: all of them share one rewrite, made with `seed`.
    - `prompt` is the rewritten one, None as long as there is none, or if the original had to do.
    - `model` wrote it, in `seconds`; None if it is the original with the words of a style card behind it.
    - `style` is the id of the style card that it was given for inspiration.
    """

    request: str
    seed: int
    prompt: str | None = None
    model: str | None = None
    seconds: float | None = None
    style: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One requested video, as the store keeps it.

    Times are in Unix seconds, progress is 0 … 1.
    - `seq` orders generations by their submission.
    - `tenant` is the tenant of the API key, empty without keys; `accepted_by` names the server that took the request.
    - `model` makes it. `asked_model` is set if that is another one than the request named: it answers for it.
    - `parameters` is what the request contained, echoed in rows; `params` is the video these resolve to, None if they
      are invalid. Its prompt is the rewritten one, as soon as there is one.
    - `attempt` counts the claims so far; `owner` holds the current one until `lease_until`.
    - `progress` is what a checkpoint holds, 1 after success.
    - `artifact` is the storage key of the finished file; `has_audio`: a sound is heard with its video. `has_stills`: a
      thumbnail and a spritesheet are kept beside it; None until it is known.
    - `worker_deaths` and `server_deaths` count since the last progress, `furthest` is the furthest progress known of
      any attempt (`server.core.retry`).
    - `event_number` numbers the tenant's generations that succeeded or failed, from 1 in the order of their commits.
    - `warnings` are sentences about what was not done as requested.
    - `host` is the host of a cluster on which it was last started.
    - `favourite`: its client marked it to be kept.
    - `awaited_input` is set until it may be claimed: the URL of the input that has yet to be fetched, and after all
      inputs ENHANCED_PROMPT if its prompt has yet to be rewritten.
    - `enhancement` is set if its prompt is to be rewritten.
    - `webhook` is set if its events are to be sent somewhere.
    - `deferred_behind` is set while it waits at the end of the queue: the `seq` of the youngest generation when it was
      moved there. It is taken once no generation up to that one waits any more.
    """

    id: str
    model: str
    status: Status
    origin: Origin
    enqueued_at: float
    accepted_by: str | None = None
    asked_model: str | None = None
    tenant: str = ""
    media_type: str = "video"
    parameters: dict[str, Any] = field(default_factory=dict)
    params: VideoParams | None = None
    target_namespace: str | None = None
    target_repo: str | None = None
    target_directory: str | None = None
    error_message: str | None = None
    artifact: str | None = None
    has_audio: bool = False
    has_stills: bool | None = None
    progress: float = 0.0
    fingerprint: dict[str, str] | None = None
    host: str | None = None
    started_at: float | None = None
    completed_at: float | None = None
    attempt: int = 0
    owner: str | None = None
    lease_until: float | None = None
    worker_deaths: int = 0
    server_deaths: int = 0
    furthest: float = 0.0
    deferred_behind: int | None = None
    event_number: int | None = None
    awaited_input: str | None = None
    enhancement: Enhancement | None = None
    webhook: Webhook | None = None
    warnings: tuple[str, ...] = ()
    favourite: bool = False
    seq: int = 0

    @property
    def model_name(self) -> str:
        """The model that the request named."""
        return self.asked_model or self.model

    @property
    def asked_prompt(self) -> str | None:
        """The prompt that was asked for, if the video is made of another one."""
        asked = self.parameters.get("prompt")
        is_other = self.enhancement is not None and self.params is not None and asked != self.params.prompt
        return asked if is_other and isinstance(asked, str) else None

    @property
    def variant(self) -> str:
        """A digest of what it needs on its device besides the model, `run_fast` and LoRAs; empty for neither."""
        if self.params is None or not (self.params.run_fast or self.params.loras):
            return ""
        needed = [self.params.run_fast, *((lora.name, lora.strength) for lora in self.params.loras)]
        return hashlib.sha256(json.dumps(needed).encode()).hexdigest()[:16]

    @property
    def size(self) -> str | None:
        """The width and the height that were requested, as "832x480"; None if the parameters are invalid or awaited."""
        return None if self.params is None else f"{self.params.width}x{self.params.height}"

    @property
    def weights(self) -> Weights:
        """What it needs on its device."""
        return Weights(self.model, self.variant)

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL


def with_words(generation: Generation, prompt: str) -> Generation:
    """A generation that is made of another prompt than the one that was asked, and says so."""
    assert generation.params is not None, "its parameters are valid"
    assert generation.enhancement is not None, "it asked for other words"
    return replace(
        generation,
        params=replace(generation.params, prompt=prompt),
        enhancement=replace(generation.enhancement, prompt=prompt),
    )
