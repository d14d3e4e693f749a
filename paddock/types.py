"""What the client's methods take and return."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, Required, TypedDict

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"
"""The model of calls that name none."""

TERMINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


class LoraChoice(TypedDict, total=False):
    """A LoRA for a video."""

    name: Required[str]
    """As `Client.loras` gives it."""
    strength: float
    """-4 … 4, but not 0. The LoRA's own is the default."""


class Parameters(TypedDict, total=False):
    """The parameters of a video, as the API names them. Each model states its limits and defaults (`Model.parameters`).

    Names that are missing here are sent as they are.
    """

    negative_prompt: str
    """What the video does not show."""
    enhance_prompt: bool
    """Whether the server's language model rewrites the prompt first (`Generation.enhanced_prompt`)."""
    prompt_extend: bool
    """Another name of `enhance_prompt`."""
    inspiration: bool
    """Whether the prompt is turned into a freer one by a style card (`Generation.inspiration_style`)."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    num_frames: int
    """The length in frames; wins over `duration`."""
    num_inference_steps: int
    """The number of denoising steps."""
    guidance_scale: float
    """How closely the video follows the prompt."""
    seed: int
    """0 … 2^53 - 16. The same request with the same seed gives the same video."""
    duration: float
    """The length in seconds."""
    aspect_ratio: str
    """Such as "16:9"; `width` and `height` win over it."""
    resolution: str
    """"480p" or "720p", with `aspect_ratio` or 16:9; `width` and `height` win over it."""
    run_fast: bool
    """Whether a model that has a fast variant uses it."""
    step_cache: str
    """Step caching: "exact", "balanced" or "fast"."""
    sampler: str
    """The solver: "unipc", "dpm++" or "euler"."""
    input_image: str | PathLike[str] | bytes
    """The image that the video begins with: the path of a file, its content, a data URL, a URL or an upload's id."""
    end_image_url: str | PathLike[str] | bytes
    """The image that the video ends with, given in the same ways."""
    tail_image_url: str | PathLike[str] | bytes
    """Another name of `end_image_url`."""
    image_mode: str
    """"first_frame": a text model begins with `input_image` by a method without training, which is approximate."""
    extend_from: str
    """The id of a generation whose video is continued; both are joined into one file."""
    input_video: str | PathLike[str] | bytes
    """The video that this one is made of, instead of an image, given in the same ways; its first 10 seconds."""
    input_audio: str | PathLike[str] | bytes
    """The sound that is heard with the video, given in the same ways; its first 60 seconds."""
    audio_url: str | PathLike[str] | bytes
    """Another name of `input_audio`."""
    generate_audio: bool
    """Whether a model makes a sound for the video; it is not synchronised with the picture."""
    audio_prompt: str
    """What is heard with `generate_audio`, instead of what the prompt says."""
    strength: float
    """How much of `input_video` is made anew, above 0 and at most 1."""
    loras: Sequence[LoraChoice]
    """LoRAs that are merged into the weights for this video, at most 8."""
    target_namespace: str
    """Kept with the generation; `history` filters by it, as by the next two."""
    target_repo: str
    target_directory: str
    webhook_url: str
    """The URL that the server tells of the generation, with signed POST requests, where its operator allows that."""
    webhook_events: Sequence[str]
    """Which of "generation.started", "generation.succeeded", "generation.failed" and "generation.cancelled" it is told;
    all but the first are the default."""


class QueueFilters(TypedDict, total=False):
    """Which generations are listed; those that pass all filters."""

    status: str
    model: str
    media_type: str
    namespace: str
    """The request's `target_namespace`."""
    repo: str
    """The request's `target_repo`."""
    folder: str
    """The request's `target_directory`."""


class Filters(QueueFilters, total=False):
    """Which generations of the history are listed."""

    search: str
    """Words that must all be in the prompt."""
    since: int
    """The first moment of `enqueued_at`, in Unix seconds."""
    until: int
    """The last one."""
    size: str
    """The requested width and height, such as "832x480"."""
    favourite: bool
    tag: str


class _Response(BaseModel):
    """A part of a response. Fields that this version does not know are kept in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True)


class Generation(_Response):
    """One generation, as it was when it was read. `Client.get` reads it again."""

    id: str = Field(alias="generation_id")
    status: str
    """`queued`, `processing`, `succeeded`, `failed` or `cancelled`."""
    model: str | None = Field(default=None, alias="model_name")
    """The one that the request named."""
    answered_by: str | None = None
    """The model that makes the video, if it is another one."""
    prompt: str | None = None
    enhanced_prompt: str | None = None
    """What the video is made of instead of the prompt; None if of the prompt itself."""
    inspiration_style: str | None = None
    """The style card that `inspiration` chose for the prompt."""
    seed: int | None = None
    joined_frames: int | None = None
    """The length of the video with the one that it continues (`extend_from`); None if it continues none."""
    remixed_from_video_id: str | None = None
    """The generation whose settings it repeats with another prompt, as OpenAI's clients ask for; None of others."""
    has_audio: bool = False
    """Whether the finished video has a sound."""
    result_url: str | None = None
    """The address of the finished video. It is signed, needs no API key, and expires; `Client.download` renews it."""
    thumbnail_url: str | None = None
    """The address of a small picture of the finished video, as `result_url` is; None while it has none."""
    spritesheet_url: str | None = None
    """The same of a picture with 4 x 4 frames of the video, evenly spaced, row by row."""
    error_message: str | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    progress: float = 0.0
    """0 … 1 of the whole generation."""
    eta_seconds: float | None = None
    """Until completion; None while unknown."""
    queue_position: int | None = None
    """1 is next; None unless queued."""
    preview_url: str | None = None
    """A small JPEG of the video as it takes shape; needs the API key."""
    warnings: tuple[str, ...] = ()
    """What was not done as requested."""
    execution: Mapping[str, str] | None = None
    """`device`, memory `plan`, `precision` and `attention` that it was last started with; None before."""
    favourite: bool = False
    """Whether it is marked to be kept."""
    tags: tuple[str, ...] = ()
    """Its tags, sorted."""

    @property
    def is_over(self) -> bool:
        """Whether the status is final: `succeeded`, `failed` or `cancelled`."""
        return self.status in TERMINAL_STATUSES

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The other fields of the row, among them the request's parameters, such as `width`."""
        return self.model_extra or {}


GenerationLike = Generation | str
"""A generation or its id."""


def id_of(generation: GenerationLike) -> str:
    """The id of a generation."""
    return generation if isinstance(generation, str) else generation.id


def ids_of(generations: GenerationLike | Iterable[GenerationLike]) -> list[str]:
    """The ids of one or several generations."""
    if isinstance(generations, str | Generation):
        return [id_of(generations)]
    return [id_of(each) for each in generations]


class Update(_Response):
    """News of one generation while it is followed."""

    generation_id: str
    status: str = "queued"
    progress: float = 0.0
    """0 … 1 of the whole generation."""
    eta_seconds: float | None = None
    """Until completion; None while unknown."""
    queue_position: int | None = None
    """1 is next; None unless queued."""
    stage: str | None = None
    """What the worker does, such as `denoising`; None until it is known."""
    step: int | None = None
    """The number of finished steps of the stage."""
    steps: int | None = None
    """The number of all steps of the stage."""
    preview_url: str | None = None
    is_connected: bool = True
    """False while the server does not answer and the client tries to reach it again."""
    generation: Generation | None = None
    """The finished generation, in its last update only."""


class Model(_Response):
    """A model that the server offers."""

    id: str
    display_name: str = ""
    summary: str = ""
    description: str = ""
    fps: int | None = None
    """Frames a second of its videos."""
    weights: str | None = None
    """`real`, or `demo`: small weights that show the server at work."""
    plan: str | None = None
    """How the weights are laid out on their device; None unless they are loaded."""
    parameters: Mapping[str, Any] = Field(default_factory=dict, alias="request_schema")
    """The JSON Schema of its parameters, with limits and defaults."""
    deployments: tuple[Mapping[str, Any], ...] = ()

    @property
    def status(self) -> str:
        """Whether its weights are loaded: `active`, `inactive`, `deploying`, `deactivating` or `error`."""
        return str(self.deployments[0].get("status", "")) if self.deployments else ""


class Lora(_Response):
    """A LoRA that requests may name in `loras`."""

    name: str
    models: tuple[str, ...] | None = None
    """The ids of the models it fits; None if that is not known."""
    size: int | None = None
    """In bytes; None while its file is not downloaded."""
    source: str = ""
    """`catalogue`: from a model's file; `folder`: a file in the server's folder of LoRAs."""
    description: str | None = None
    strength: float = 1.0
    """The default of requests."""
