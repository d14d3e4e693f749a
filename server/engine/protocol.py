"""The protocol between the server and a worker: JSON, one message a line, over a socket of its own.

The server sends orders, the worker sends reports. Both may be on different machines: files and weights are named by
storage key or hub repository, never by a path.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipelines.core.model import ModelSpec
from pipelines.core.progress import GenerationStats, Progress, Stage
from pipelines.core.request import VideoParams

VERSION = 17
MAX_LINE_BYTES = 2**20
MAX_SENTENCE_CHARS = 2000
"""A library's error may fill pages; it is cut to what fits a screen, far below the limit of a line."""

MAX_WARNINGS = 8
"""The limit of a generation's warnings."""


Attempt = tuple[str, int]
"""The id of a generation, and the number of an attempt at it."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> bytes:
        """The message as it is sent."""
        return self.model_dump_json().encode() + b"\n"

    @property
    def about(self) -> Attempt | None:
        """The attempt it is about; None if it is about the worker itself."""
        return None


class _About(_Message):
    """A message about one attempt at one generation."""

    generation_id: str
    attempt: int

    @property
    def about(self) -> Attempt:
        """The attempt it is about."""
        return self.generation_id, self.attempt


# orders


class Load(_Message):
    """Load this model. Answered by Loading…, then Ready or LoadFailed; by Ready at once if it is loaded."""

    kind: Literal["load"] = "load"
    model_id: str
    spec: ModelSpec


class Run(_About):
    """Make a video with the loaded model.

    `artifact`, `checkpoint` and `preview` are the storage keys of the files that it writes. `resume_from` is that of
    the checkpoint to continue from, which an earlier attempt wrote; without one, it begins at the first step. `image`
    and `last_image` are those of the images that it begins and ends with, `video` and `extends` those of the videos
    that it is made of and that it extends, `audio` that of the sound that is heard with it. `asked_prompt` is the one
    that its prompt was made of, if another one was. Answered by Progressed…, Checkpointed…, Previewed… and Warned, then
    by Failed, Cancelled, Suspended or Rendered; after Rendered, when the file is finished, by Done or Failed.
    """

    kind: Literal["run"] = "run"
    params: VideoParams
    artifact: str
    checkpoint: str
    preview: str
    resume_from: str | None = None
    image: str | None = None
    last_image: str | None = None
    video: str | None = None
    extends: str | None = None
    audio: str | None = None
    asked_prompt: str | None = None


class Prepare(_Message):
    """Encode these prompts in advance, if that does not slow down the current run. Not answered."""

    kind: Literal["prepare"] = "prepare"
    prompts: tuple[str, ...]


class Cancel(_About):
    """Stop that attempt, if it is running. Answered by Cancelled; if it comes too late, by the result."""

    kind: Literal["cancel"] = "cancel"


class Suspend(_About):
    """Save that attempt's checkpoint and stop it. Answered by Suspended; if it comes too late, by the result."""

    kind: Literal["suspend"] = "suspend"


class Unload(_Message):
    """Free the device. Answered by Unloaded."""

    kind: Literal["unload"] = "unload"


# reports


class Hello(_Message):
    """The first message: which protocol the worker speaks."""

    kind: Literal["hello"] = "hello"
    version: int = VERSION


class DeviceMemory(_Message):
    """Memory of a device in bytes, for all processes together."""

    free: int
    total: int


class Heartbeat(_Message):
    """The worker process is alive, whatever it does; `memory` is its device's, some moments old.

    `compile_error` is why the loaded model's blocks run uncompiled, if compiling them failed.
    """

    kind: Literal["heartbeat"] = "heartbeat"
    memory: DeviceMemory | None = None
    compile_error: Annotated[str, Field(max_length=MAX_SENTENCE_CHARS)] | None = None


class Loading(_Message):
    """A `fraction` (0 … 1) of the weights' bytes is read, and `component` is next."""

    kind: Literal["loading"] = "loading"
    model_id: str
    component: str
    fraction: float


class Ready(_Message):
    """The model is loaded; its videos depend on `fingerprint` and the request alone."""

    kind: Literal["ready"] = "ready"
    model_id: str
    fingerprint: dict[str, str]


class LoadFailed(_Message):
    """The model cannot be loaded; `message` is a sentence for the user.

    `temporary`: the model is not the cause but the state of the machine, for example the memory that other programs
    hold. The same may succeed later, best in another worker.
    `is_missing`: its weights are not on the worker's machine. `has_kept`: what was loaded before still is.
    """

    kind: Literal["load_failed"] = "load_failed"
    model_id: str
    message: str
    temporary: bool = False
    is_missing: bool = False
    has_kept: bool = False


class Unloaded(_Message):
    """No model is loaded."""

    kind: Literal["unloaded"] = "unloaded"


class Progressed(_About):
    """Step `step` of `steps` of a stage is done, `fraction` (0 … 1) of the whole, after `seconds` of work in all."""

    kind: Literal["progressed"] = "progressed"
    stage: Stage
    step: int
    steps: int
    fraction: float
    seconds: float

    @property
    def progress(self) -> Progress:
        """The same without the attempt."""
        return Progress(self.stage, self.step, self.steps, self.fraction, self.seconds)


class Checkpointed(_About):
    """A complete checkpoint is on disk that holds `fraction` (0 … 1) of the generation."""

    kind: Literal["checkpointed"] = "checkpointed"
    fraction: float


class Previewed(_About):
    """A complete preview of the video after `step` steps is on disk, under its storage key."""

    kind: Literal["previewed"] = "previewed"
    step: int


class Warned(_About):
    """The request cannot be followed in full; `warnings` are sentences for the user."""

    kind: Literal["warned"] = "warned"
    warnings: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_SENTENCE_CHARS)], ...], Field(min_length=1, max_length=MAX_WARNINGS)
    ]


class Rendered(_About):
    """All frames are made. The device is free for the next order while the file is finished."""

    kind: Literal["rendered"] = "rendered"


class Done(_About):
    """The complete video is on disk, under its storage key `artifact`.

    It depends on `fingerprint` besides the request, which may differ from that of Ready: a run that exhausts the memory
    goes on by another plan. `stats` counts what was computed, and what caches saved. `has_audio`: a sound is heard with
    the video.
    """

    kind: Literal["done"] = "done"
    artifact: str
    fingerprint: dict[str, str]
    stats: GenerationStats
    has_audio: bool = False


class Failed(_About):
    """The attempt has failed; `message` is a sentence for the user. The worker goes on.

    `temporary`: the same may succeed later, as in LoadFailed. `is_missing`: a LoRA is not on the worker's machine; the
    model stays loaded.
    """

    kind: Literal["failed"] = "failed"
    message: str
    temporary: bool = False
    is_missing: bool = False


class DeviceFailed(_Message):
    """The device itself has failed; `message` is a sentence for the user. The worker ends, with all it held."""

    kind: Literal["device_failed"] = "device_failed"
    message: str


class WorkerEnded(_Message):
    """The worker's process has ended, says who stands between it and the server; `message` is why.

    The last message.
    """

    kind: Literal["worker_ended"] = "worker_ended"
    message: str


class HostLost(_Message):
    """The worker's host cannot be reached, says who stands between it and the server; `message` is a sentence.

    The last message. The same may succeed later, or on another host. `is_taken`: another server uses the device.
    """

    kind: Literal["host_lost"] = "host_lost"
    message: str
    is_taken: bool = False


class Cancelled(_About):
    """The attempt has stopped, and the device is free."""

    kind: Literal["cancelled"] = "cancelled"


class Suspended(_About):
    """The attempt has stopped, its checkpoint is saved, and the device is free."""

    kind: Literal["suspended"] = "suspended"


Order = Annotated[Load | Run | Prepare | Cancel | Suspend | Unload, Field(discriminator="kind")]
Report = Annotated[
    Hello
    | Heartbeat
    | Loading
    | Ready
    | LoadFailed
    | Unloaded
    | Progressed
    | Checkpointed
    | Previewed
    | Warned
    | Rendered
    | Done
    | Failed
    | DeviceFailed
    | WorkerEnded
    | HostLost
    | Cancelled
    | Suspended,
    Field(discriminator="kind"),
]

RunReport = Progressed | Checkpointed | Previewed | Warned
"""Reports about a run while it goes on."""

ORDER: TypeAdapter[Order] = TypeAdapter(Order)
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
