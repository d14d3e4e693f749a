"""The shapes of answers, as the OpenAPI document shows them. Field names are the host's."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.catalogue import DEFAULT_MODEL
from server.api.schemas import examples

StatusName = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
DeploymentName = Literal["active", "inactive", "deploying", "deactivating", "error"]
ErrorType = Literal[
    "unauthenticated",
    "invalid_params",
    "resource_not_found",
    "unknown_error",
    "method_not_allowed",
    "conflict",
    "payload_too_large",
    "unsupported_media_type",
    "queue_full",
    "unavailable",
]


def _example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": example})


class ErrorDetail(BaseModel):
    """What went wrong; `message` is a sentence for people."""

    type: ErrorType
    title: str
    detail: str
    message: str


class ErrorBody(BaseModel):
    """Every error's body."""

    error: ErrorDetail
    status: Literal["error"]
    status_message: ErrorType

    model_config = _example(
        {
            "error": {
                "type": "resource_not_found",
                "title": "The requested resource could not be found",
                "detail": "Model not found: wan",
                "message": "Model not found: wan",
            },
            "status": "error",
            "status_message": "resource_not_found",
        }
    )


class Row(BaseModel):
    """A generation. Every parameter its request carried stands beside these fields. Times are in unix seconds.

    One that succeeded and has no `result_url` any more had its video removed to make room; `error_message` says so.
    """

    generation_id: str
    model_name: str
    prompt: str | None
    media_type: Literal["image", "video"]
    status: StatusName
    result_url: str | None
    error_message: str | None
    enqueued_at: int
    started_at: int | None
    completed_at: int | None
    target_namespace: str | None
    target_repo: str | None
    target_directory: str | None
    progress: float = Field(ge=0, le=1, description="Of the whole generation")
    eta_seconds: float | None = Field(description="To completion, also of one that waits; null while unknown")
    queue_position: int | None = Field(
        description="1 is next; null unless queued. In the order they will be taken if no more come: keys take "
        "turns, and with several models the loaded one's go first, as far as the `max_overtakes` setting lets them. "
        "With several devices it is an estimate, as if they took turns"
    )
    preview_url: str | None = Field(
        description="A small picture of how far it is, another address for every picture; fetched with the key that "
        "asked for the generation. Null unless it is denoised or decoded, on this server"
    )

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"example": examples.ROW},
    )


class HistoryRow(Row):
    """A generation in the history; who asked and what it cost are the host's, and null here."""

    cost: None = None
    user_id: None = None
    username: None = None
    user_image: None = None

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": examples.HISTORY_ROW})


class QueueList(BaseModel):
    """Generations, newest first."""

    count: int
    generations: list[Row]

    model_config = _example({"count": 1, "generations": [examples.ROW]})


class History(BaseModel):
    """A page of generations, newest first."""

    count: int
    generations: list[HistoryRow]
    page_number: int
    page_size: int
    total_pages: int
    total_entries: int
    total_cost: None

    model_config = _example(
        {
            "count": 1,
            "generations": [examples.HISTORY_ROW],
            "page_number": 1,
            "page_size": 50,
            "total_pages": 1,
            "total_entries": 1,
            "total_cost": None,
        }
    )


class OneGeneration(BaseModel):
    """One generation in the host's success envelope."""

    status: Literal["success"]
    status_message: Literal["resource_found"]
    generation: HistoryRow

    model_config = _example(
        {"status": "success", "status_message": "resource_found", "generation": examples.HISTORY_ROW}
    )


class Enqueued(BaseModel):
    """A generation that was accepted. Whether its parameters are valid, its row tells."""

    generation_id: str
    status: Literal["queued"]


class QueueCreated(BaseModel):
    """The generations of an enqueued request, in the order of their seeds."""

    generations: list[Enqueued]

    model_config = _example({"generations": [{"generation_id": examples.ID, "status": "queued"}]})


class QueueDeleted(BaseModel):
    """The cancellation was carried out, or came too late to matter."""

    status: Literal["success"]
    generation_id: str

    model_config = _example({"status": "success", "generation_id": examples.ID})


class Video(BaseModel):
    """A finished video: its address, or the file itself in base64."""

    url: str | None = None
    b64_json: str | None = None


class VideosGenerated(BaseModel):
    """The videos of a sync request; `created` in unix seconds."""

    model: str
    created: int
    videos: list[Video]

    model_config = _example({"model": DEFAULT_MODEL, "created": 1790000000, "videos": [{"url": examples.URL}]})


class DeploymentStatus(BaseModel):
    """Whether the model's weights are on a device."""

    status: DeploymentName


class Model(BaseModel):
    """A model, in the host's form."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    display_name: str
    summary: str
    description: str
    developer: dict[str, Any]
    capabilities: dict[str, list[str]]
    endpoint: Literal["/videos/generate"]
    model_type: Literal["base", "custom"]
    released_at: str | None
    image_url: str | None
    deployments: list[DeploymentStatus]
    request_schema: dict[str, Any]
    json_request_schema: dict[str, Any]
    fine_tuning: None
    source_model: None
    showcase: None
    fps: int = Field(description="Frames a second of its videos")
    weights: Literal["real", "demo"] = Field(description="demo: small weights that show the server works")
    plan: str | None = Field(description="How the weights are laid out on their device; null unless they are on one")

    model_config = _example(examples.MODEL)


class ModelList(BaseModel):
    """Models, in the order of their files."""

    object: Literal["list"]
    data: list[Model]

    model_config = _example({"object": "list", "data": [examples.MODEL]})


class EvaluationModel(BaseModel):
    """What documentation tooling reads of a model."""

    name: str
    display_name: str
    description: str
    summary: str
    model_type: Literal["base"]
    capabilities: dict[str, list[str]]
    developer: dict[str, Any]
    can_run_inference: bool
    deprecated: bool
    json_request_schema: dict[str, Any]


class EvaluationModels(BaseModel):
    """All models."""

    models: list[EvaluationModel]

    model_config = _example({"models": [examples.EVALUATION_MODEL]})


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str

    model_config = _example({"status": "ok", "version": "0.1.0"})


class Memory(BaseModel):
    """Bytes that are free, and all there are."""

    free: int
    total: int


class DeviceState(BaseModel):
    """A device and what it holds, laid out by which plan; `loading` is how much (0 … 1) of the model is read.

    `error` is what went wrong last, until a generation is finished; `failures` counts the deaths of its workers since
    the server started; `retry_in` is how many seconds it is left alone, if it is. `memory` is a card's, while a worker
    uses it.
    """

    device: str
    model: str | None
    plan: str | None
    loading: float | None
    busy: bool
    error: str | None
    health: Literal["healthy", "unhealthy", "half_open"]
    failures: int
    retry_in: float | None
    memory: Memory | None


class Readiness(BaseModel):
    """Whether generations are accepted, and what the devices are doing; `free_bytes` is on the data's disk."""

    status: Literal["ready"]
    version: str
    demo: bool
    queued: int
    free_bytes: int | None
    host_memory: Memory
    devices: list[DeviceState]

    model_config = _example(
        {
            "status": "ready",
            "version": "0.1.0",
            "demo": False,
            "queued": 3,
            "free_bytes": 250_000_000_000,
            "host_memory": {"free": 40_000_000_000, "total": 68_000_000_000},
            "devices": [
                {
                    "device": "cuda:0",
                    "model": DEFAULT_MODEL,
                    "plan": examples.PLAN,
                    "loading": None,
                    "busy": True,
                    "error": None,
                    "health": "healthy",
                    "failures": 0,
                    "retry_in": None,
                    "memory": {"free": 2_000_000_000, "total": 25_000_000_000},
                }
            ],
        }
    )
