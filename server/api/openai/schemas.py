"""Schemas of OpenAI's objects, and of the bodies that its routes take."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from pipelines.models.catalogue import DEFAULT_MODEL
from server.api.dependencies import error_responses
from server.api.schemas.example import GENERATION_ID, example
from server.api.schemas.fields import UnixSeconds

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]
ErrorKind = Literal["invalid_request_error", "rate_limit_error", "server_error"]

_VIDEO: dict[str, Any] = {
    "id": GENERATION_ID,
    "object": "video",
    "model": DEFAULT_MODEL,
    "status": "in_progress",
    "progress": 42,
    "created_at": 1790000000,
    "completed_at": None,
    "expires_at": None,
    "prompt": "An ox by a lake",
    "size": "832x480",
    "seconds": "4",
    "remixed_from_video_id": None,
    "error": None,
}
_MODEL = {"id": DEFAULT_MODEL, "object": "model", "created": 1790000000, "owned_by": "paddock"}


class OpenaiErrorDetail(BaseModel):
    """What is wrong: a sentence, and the parameter that it is about."""

    message: str
    type: ErrorKind
    param: str | None
    code: str | None


class OpenaiError(BaseModel):
    """The body of every error response under /v1."""

    error: OpenaiErrorDetail

    model_config = example(
        {
            "error": {
                "message": "Model not found: wan",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        }
    )


class OpenaiVideoError(TypedDict):
    """Why a video has failed."""

    code: str
    message: str


class OpenaiVideo(BaseModel):
    """A video that is requested, being made, or made. Times are Unix seconds."""

    id: str
    object: Literal["video"]
    model: str
    status: VideoStatus
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: UnixSeconds
    completed_at: UnixSeconds | None
    expires_at: Annotated[
        UnixSeconds | None, Field(description="When the video is deleted by its age (setting `retention_days`)")
    ]
    prompt: str | None
    size: Annotated[str, Field(description="WIDTHxHEIGHT in pixels")]
    seconds: Annotated[str, Field(description="The length; of an extension, that of both parts together")]
    remixed_from_video_id: str | None
    error: OpenaiVideoError | None

    model_config = example(_VIDEO)


class OpenaiVideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"]
    data: list[OpenaiVideo]
    first_id: str | None
    last_id: Annotated[str | None, Field(description="The `after` of the next page")]
    has_more: bool

    model_config = example(
        {"object": "list", "data": [_VIDEO], "first_id": GENERATION_ID, "last_id": GENERATION_ID, "has_more": False}
    )


class OpenaiVideoDeleted(BaseModel):
    """The video is deleted."""

    id: str
    object: Literal["video.deleted"]
    deleted: bool

    model_config = example({"id": GENERATION_ID, "object": "video.deleted", "deleted": True})


class OpenaiModel(BaseModel):
    """A model of the catalogue."""

    id: str
    object: Literal["model"]
    created: UnixSeconds
    owned_by: str

    model_config = example(_MODEL)


class OpenaiModelList(BaseModel):
    """The models of the catalogue."""

    object: Literal["list"]
    data: list[OpenaiModel]

    model_config = example({"object": "list", "data": [_MODEL]})


_PROMPT = {
    "type": "string",
    "minLength": 1,
    "pattern": r"\S",
    "description": "What is seen; at most as many characters as the setting `max_prompt_chars` allows",
}
_SECONDS = {
    "anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}],
    "description": "The length, as far as the model goes; num_frames and duration take precedence",
}
_OPTIONAL = {
    "model": {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": f"The id of a model; {DEFAULT_MODEL} is the default",
    },
    "seconds": _SECONDS,
    "size": {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "WIDTHxHEIGHT in pixels; width, height, aspect_ratio and resolution take precedence",
    },
}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_REFERENCE = {
    **_object({"image_url": {"type": "string"}, "file_id": {"type": "string"}}),
    "description": "The image that the video begins with: a URL or a data URL, or the id of an upload",
}
_VIDEO_ID = {**_object({"id": {"type": "string"}}, "id"), "description": "A completed video"}

CREATE, REMIX, EXTEND, EDIT = "CreateVideoRequest", "RemixVideoRequest", "ExtendVideoRequest", "EditVideoRequest"

OPENAI_BODIES: dict[str, dict[str, Any]] = {
    CREATE: _object({"prompt": _PROMPT, **_OPTIONAL, "input_reference": _REFERENCE}, "prompt"),
    REMIX: _object({"prompt": _PROMPT}, "prompt"),
    EXTEND: _object({"prompt": _PROMPT, "seconds": _SECONDS, "video": _VIDEO_ID}, "prompt", "video"),
    EDIT: _object({"prompt": _PROMPT, "video": _VIDEO_ID}, "prompt", "video"),
}
"""The schemas of the bodies by their names. In a form `input_reference` and the video of an edit may be files."""


def openai_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of a route's errors, as `error_responses` does."""
    return {
        # the schema has its own example: FastAPI would leave out of this one what is null
        status: {**{name: part for name, part in answer.items() if name != "content"}, "model": OpenaiError}
        for status, answer in error_responses(*statuses).items()
    }
