"""Schemas of models, in the format of the hosted API."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from pipelines.models.catalogue import DEFAULT_MODEL
from server.api.schemas.example import PLAN, example
from server.api.schemas.fields import UnixSeconds

DeploymentName = Literal["active", "inactive", "deploying", "deactivating", "error"]

_ABOUT_MODEL: dict[str, Any] = {
    "display_name": "Wan2.1 14B - Text to Video",
    "summary": "Text-to-video with bilingual text",
    "description": "Wan-AI/Wan2.1-T2V-14B-Diffusers is a 14B parameter Large Vision Model (LVM) …",
    "model_type": "base",
    "capabilities": {"input": ["text"], "output": ["video"]},
    "developer": {"name": "wan-ai", "display_name": "Wan-AI", "logo": None},
}
_REQUEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt": {"type": "string", "title": "Prompt", "x-order": 0}},
    "required": ["prompt"],
    "basic": ["prompt"],
}
_MODEL: dict[str, Any] = {
    **_ABOUT_MODEL,
    "id": DEFAULT_MODEL,
    "object": "model",
    "created": 1740441600,
    "owned_by": "oxen",
    "endpoint": "/videos/generate",
    "released_at": "2025-02-25",
    "image_url": None,
    "deployments": [{"status": "active"}],
    "request_schema": _REQUEST_SCHEMA,
    "json_request_schema": _REQUEST_SCHEMA,
    "x-paddock-parameters": {"sampler": {"type": "string", "enum": ["unipc", "dpm++", "euler"]}},
    "fine_tuning": None,
    "source_model": None,
    "showcase": None,
    "fps": 16,
    "weights": "real",
    "plan": PLAN,
}
_EVALUATION_MODEL: dict[str, Any] = {
    **_ABOUT_MODEL,
    "name": DEFAULT_MODEL,
    "can_run_inference": True,
    "deprecated": False,
    "json_request_schema": _REQUEST_SCHEMA,
}


class DeploymentStatus(BaseModel):
    """Whether the model's weights are on a device."""

    status: DeploymentName


class Model(BaseModel):
    """A model in the format of the hosted API."""

    id: str
    object: Literal["model"]
    created: UnixSeconds
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
    own_parameters: dict[str, Any] = Field(
        alias="x-paddock-parameters", description="Schemas of this server's own parameters, by name"
    )
    # of the types of the hosted API: generators of clients have none for null alone
    fine_tuning: dict[str, Any] | None = Field(description="Always null")
    source_model: str | None = Field(description="Always null")
    showcase: dict[str, Any] | None = Field(description="Always null")
    fps: int = Field(description="Frames per second of the videos")
    weights: Literal["real", "demo"] = Field(description="demo: small weights for trying out the server")
    plan: str | None = Field(description="Plan of the weights on their device; null unless they are loaded")

    model_config = example(_MODEL)


class ModelList(BaseModel):
    """Models in the order of their files."""

    object: Literal["list"]
    data: list[Model]

    model_config = example({"object": "list", "data": [_MODEL]})


class EvaluationModel(BaseModel):
    """A model in the format of documentation tools."""

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
    """All models in the format of documentation tools."""

    models: list[EvaluationModel]

    model_config = example({"models": [_EVALUATION_MODEL]})
