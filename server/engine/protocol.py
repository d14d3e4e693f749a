"""The whole protocol between the server and a worker: JSON, one message a line, over a socket of its own.

The server sends orders, the worker sends reports. Both sides may live on different machines: artifacts and weights
are named by key or hub repository, never by a path the other side would have to share.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipelines.core.model import ModelSpec
from pipelines.core.progress import GenerationStats, Progress, Stage
from pipelines.core.request import VideoParams

VERSION = 7
MAX_LINE_BYTES = 2**20
MAX_SENTENCE_CHARS = 2000
"""A library's error may fill pages; what is sent of it fits a screen, and a line far below its limit."""


Attempt = tuple[str, int]
"""A generation, and the number of an attempt at it."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> bytes:
        """The message as it goes over the wire."""
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
    """Have this model ready. Answered by Loading…, then Ready or LoadFailed; by Ready at once if it is loaded."""

    kind: Literal["load"] = "load"
    model_id: str
    spec: ModelSpec


class Run(_About):
    """Make a video with the loaded model, going on from its checkpoint if it has one.

    Answered by Progressed…, Checkpointed… and Previewed…, then Failed, Cancelled, Suspended or Rendered; after this,
    when its file is finished, by Done or Failed.
    """

    kind: Literal["run"] = "run"
    params: VideoParams
    artifact: str
    checkpoint: str
    preview: str


class Prepare(_Message):
    """Know these prompts before they are asked for, if that takes nothing from the run going on. Not answered."""

    kind: Literal["prepare"] = "prepare"
    prompts: tuple[str, ...]


class Cancel(_About):
    """Stop that attempt, if it is the one running. Answered by Cancelled; too late, by what it became."""

    kind: Literal["cancel"] = "cancel"


class Suspend(_About):
    """Save how far that attempt is, and stop it. Answered by Suspended; too late, by what it became."""

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
    """Bytes of a card, whoever uses them."""

    free: int
    total: int


class Heartbeat(_Message):
    """The worker lives, whatever it is busy with; `memory` is its card's, as it was moments ago."""

    kind: Literal["heartbeat"] = "heartbeat"
    memory: DeviceMemory | None = None


class Loading(_Message):
    """Weights are being read: `fraction` (0 … 1) of all bytes, `component` next."""

    kind: Literal["loading"] = "loading"
    model_id: str
    component: str
    fraction: float


class Ready(_Message):
    """The model is loaded; `fingerprint` is all that its videos depend on besides the request."""

    kind: Literal["ready"] = "ready"
    model_id: str
    fingerprint: dict[str, str]


class LoadFailed(_Message):
    """The model cannot be loaded; `message` is a sentence for the user."""

    kind: Literal["load_failed"] = "load_failed"
    model_id: str
    message: str


class Unloaded(_Message):
    """No model is loaded."""

    kind: Literal["unloaded"] = "unloaded"


class Progressed(_About):
    """Step `step` of `steps` of a stage is done, `fraction` (0 … 1) of the whole, by `seconds` of work in all."""

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
    """A checkpoint is on disk, whole, that holds `fraction` (0 … 1) of the generation."""

    kind: Literal["checkpointed"] = "checkpointed"
    fraction: float


class Previewed(_About):
    """A picture of what `step` steps have made is on disk, whole, under its preview key."""

    kind: Literal["previewed"] = "previewed"
    step: int


class Rendered(_About):
    """All frames are made, and the device is free for the next order while the file is finished."""

    kind: Literal["rendered"] = "rendered"


class Done(_About):
    """The video is on disk, whole, under its artifact key.

    `fingerprint` is what it depends on besides the request: a run may have gone on by another plan than it began with.
    `stats` is what it took, and what caches spared it.
    """

    kind: Literal["done"] = "done"
    artifact: str
    fingerprint: dict[str, str]
    stats: GenerationStats


class Failed(_About):
    """There will be no video from this attempt; `message` is a sentence for the user. The worker goes on."""

    kind: Literal["failed"] = "failed"
    message: str


class DeviceFailed(_Message):
    """The device itself fails; `message` says how, for the user. The worker ends, and all that it held with it."""

    kind: Literal["device_failed"] = "device_failed"
    message: str


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
    | Rendered
    | Done
    | Failed
    | DeviceFailed
    | Cancelled
    | Suspended,
    Field(discriminator="kind"),
]

RunReport = Progressed | Checkpointed | Previewed
"""What is told of a run while it goes on."""

ORDER: TypeAdapter[Order] = TypeAdapter(Order)
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
