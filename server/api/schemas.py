"""The shapes of answers, as the OpenAPI document shows them. Field names are the host's."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.catalogue import DEFAULT_MODEL

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

_ID = "0b0f3a8e-5d5c-4c0f-9d4d-0d2a4a0e6a51"
_URL = "http://localhost:8000/api/files/token.mp4"


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

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "type": "resource_not_found",
                    "title": "The requested resource could not be found",
                    "detail": "Model not found: wan",
                    "message": "Model not found: wan",
                },
                "status": "error",
                "status_message": "resource_not_found",
            }
        }
    )


class Row(BaseModel):
    """A generation. Every parameter its request carried stands beside these fields. Times are in unix seconds."""

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
    eta_seconds: float | None = Field(description="To completion; null while unknown")
    queue_position: int | None = Field(description="1 is next; null unless queued")

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "generation_id": _ID,
                "model_name": DEFAULT_MODEL,
                "prompt": "An ox by a lake",
                "media_type": "video",
                "status": "processing",
                "result_url": None,
                "error_message": None,
                "enqueued_at": 1790000000,
                "started_at": 1790000001,
                "completed_at": None,
                "target_namespace": None,
                "target_repo": None,
                "target_directory": None,
                "progress": 0.42,
                "eta_seconds": 81.5,
                "queue_position": None,
                "seed": 7,
            }
        },
    )


class HistoryRow(Row):
    """A generation in the history; who asked and what it cost are the host's, and null here."""

    cost: None = None
    user_id: None = None
    username: None = None
    user_image: None = None


class QueueList(BaseModel):
    """Generations, newest first."""

    count: int
    generations: list[Row]


class History(BaseModel):
    """A page of generations, newest first."""

    count: int
    generations: list[HistoryRow]
    page_number: int
    page_size: int
    total_pages: int
    total_entries: int
    total_cost: None


class OneGeneration(BaseModel):
    """One generation in the host's success envelope."""

    status: Literal["success"]
    status_message: Literal["resource_found"]
    generation: HistoryRow


class Enqueued(BaseModel):
    """A generation that was accepted. Whether its parameters are valid, its row tells."""

    generation_id: str
    status: Literal["queued"]


class QueueCreated(BaseModel):
    """The generations of an enqueued request, in the order of their seeds."""

    generations: list[Enqueued]

    model_config = ConfigDict(
        json_schema_extra={"example": {"generations": [{"generation_id": _ID, "status": "queued"}]}}
    )


class QueueDeleted(BaseModel):
    """The cancellation was carried out, or came too late to matter."""

    status: Literal["success"]
    generation_id: str


class Video(BaseModel):
    """A finished video: its address, or the file itself in base64."""

    url: str | None = None
    b64_json: str | None = None


class VideosGenerated(BaseModel):
    """The videos of a sync request; `created` in unix seconds."""

    model: str
    created: int
    videos: list[Video]

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": DEFAULT_MODEL, "created": 1790000000, "videos": [{"url": _URL}]}}
    )


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
    weights: Literal["real", "demo"] = Field(description="demo: small weights that show the server works")


class ModelList(BaseModel):
    """Models, in the order of their files."""

    object: Literal["list"]
    data: list[Model]


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


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class DeviceState(BaseModel):
    """A device and what it holds; `loading` is how much (0 … 1) of the model is read."""

    device: str
    model: str | None
    loading: float | None
    busy: bool
    error: str | None


class Readiness(BaseModel):
    """Whether generations are accepted, and what the devices are doing."""

    status: Literal["ready"]
    version: str
    demo: bool
    queued: int
    devices: list[DeviceState]
